"""The options of a job as its output records them, so that the job can be run again by the output's name alone.

What must not be written down (tokens, keys in URIs) or cannot be (the bytes of a tokenizer) is named instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pipelines.job import EncodeJob, FrozenJob
from t5enc.errors import OutputError
from t5enc.fields.parts import find_default, list_options, list_values
from t5enc.recipes.recipe import Recipe
from t5enc.storage.filesystems import hide_credentials

ASKED, LEFT_OUT = "asked", "asked_but_not_recorded"
# Of one run, and not of the job; a token is asked for anew wherever it is needed.
OF_A_RUN = ("output", "token", "reuse", "overwrite", "retry_errors", "replace", "recheck", "ray_address", "ship_code")
PATHS = ("inputs", "model", "tokenizer", "recipe", "compile_cache")


def record_asked(job: EncodeJob) -> dict[str, Any]:
    """What a job's record says of its options: those that are not the default, paths so that they hold anywhere."""
    defaults = {name: find_default(entry) for name, (entry, _) in list_options(EncodeJob).items()}
    asked: dict[str, Any] = {}
    left_out: list[str] = []
    for name, value in list_values(job).items():
        if name in OF_A_RUN or value == defaults[name]:
            continue
        plain = _make_plain(name, value)
        if plain is None:
            left_out.append(name)
        else:
            asked[name] = plain
    return {ASKED: asked} | ({LEFT_OUT: left_out} if left_out else {})


def _make_plain(name: str, value: Any) -> Any:
    """A value as JSON has it; None where it holds a secret, or bytes."""
    if isinstance(value, Recipe):
        return value.to_mapping()
    if isinstance(value, bytes):
        return None
    if isinstance(value, str):
        if hide_credentials(value) != value:
            return None
        return _settle_path(name, value) if name in PATHS else value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        plain = [_make_plain(name, one) for one in value]
        return None if None in plain else plain
    return value


def _settle_path(name: str, value: str) -> str:
    """A path of this machine as an absolute one; inputs are nothing else, what else is one exists."""
    is_path = "://" not in value if name == "inputs" else os.path.exists(value)
    return os.path.abspath(value) if is_path else value


def read_asked(frozen: FrozenJob, shown: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a job was asked for, with what it was frozen with, and `given` ones in their place.

    OutputError where the output does not tell them, or not all, and they are not given.
    """
    if ASKED not in frozen.record:
        raise OutputError(
            f"{shown}: expected an output that records what its job was asked for, got one of an earlier release, or "
            f"one that was imported or derived; run the job's own `t5enc encode` with --replace"
        )
    missing = [name for name in frozen.record.get(LEFT_OUT, ()) if name not in given]
    if missing:
        raise OutputError(
            f"{shown}: expected all options of its job in its record, got none for {', '.join(missing)}, which held a "
            f"secret or bytes; run the job's own `t5enc encode` with --replace --reuse {shown}"
        )
    settled = {name: frozen.identity[name] for name in ("dtype", "storage_dtype")}
    return {**frozen.record[ASKED], **settled, **given}
