"""The options of a job's last run, as its output notes them, so that the output's name alone brings it up to date.

What must not be written down (tokens, keys in URIs) or cannot be (the bytes of a tokenizer) is named instead. What
says where a run takes place is left out: the next one may be elsewhere.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from pipelines.job import EncodeJob, FrozenJob
from pipelines.stores.store import Store
from t5enc.errors import OutputError
from t5enc.fields.parts import find_default, list_options, list_values
from t5enc.recipes.recipe import Recipe
from t5enc.storage.filesystems import absolute_if_local, absolute_path
from t5enc.storage.layout import ASKED

# Of one run, and not of the job; a token is asked for anew wherever it is needed.
OF_A_RUN = ("output", "token", "reuse", "overwrite", "retry_errors", "replace", "recheck")
OF_A_PLACE = (
    *("actors", "tokenizers", "cpus_per_actor", "gpus_per_actor", "resources", "label_selector", "accelerator_type"),
    *("ray_address", "ship_code", "device", "compile_cache"),
)
# What a URI may ask a filesystem for, without a secret in it.
HARMLESS = ("region", "endpoint_override", "scheme", "anonymous", "allow_bucket_creation", "allow_bucket_deletion")
# A URI's user and what follows it up to the path; of Azure's it is a container.
USER = re.compile(r"(?!abfss?://)\w+://[^/@\s]*@|abfss?://[^/@\s]*:[^/@\s]*@")
SCALE = re.compile(r"(:[\d.]+)?$")


def note_asked(store: Store, job: EncodeJob) -> None:
    """Note the options of a run in its output."""
    store.replace(ASKED, json.dumps(list_asked(job), indent=2).encode())


def list_asked(job: EncodeJob) -> dict[str, Any]:
    """The `options` of a job that are not the default, paths so that they hold anywhere; and names `left_out`."""
    defaults = {name: find_default(entry) for name, (entry, _) in list_options(EncodeJob).items()}
    asked: dict[str, Any] = {}
    left_out: list[str] = []
    for name, value in list_values(job).items():
        if name in OF_A_RUN or name in OF_A_PLACE or value == defaults[name]:
            continue
        plain = _make_plain(name, value)
        if plain is None:
            left_out.append(name)
        else:
            asked[name] = plain
    return {"options": asked, "left_out": left_out}


def _make_plain(name: str, value: Any) -> Any:
    """A value as JSON has it; None where it may hold a secret, or is bytes."""
    if isinstance(value, Recipe):
        return value.to_mapping()
    if isinstance(value, bytes):
        return None
    if isinstance(value, str):
        return None if may_hold_secret(value) else _settle_path(name, value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        plain = [_make_plain(name, one) for one in value]
        return None if None in plain else plain
    return value


def may_hold_secret(value: str) -> bool:
    """Whether a text is a URI with a user, or with a query of which not all is known to be harmless."""
    if "://" not in value:
        return False
    _, mark, query = value.partition("?")
    asked = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
    return bool(USER.match(value)) or bool(mark and "=" in query and not set(asked) <= set(HARMLESS))


def _settle_path(name: str, value: str) -> str:
    """A path of this machine as an absolute one: inputs are nothing else, what else is one is there."""
    if name == "inputs":
        return absolute_path(value)
    if name == "lora":
        return ",".join(_settle_adapter(part) for part in value.split(","))
    if name == "recipe":
        return os.path.abspath(value) if os.path.isfile(value) else value
    return absolute_if_local(value) if name in ("model", "tokenizer") else value


def _settle_adapter(part: str) -> str:
    path = SCALE.sub("", part.strip())
    return part.strip().replace(path, os.path.abspath(path), 1) if os.path.exists(path) else part


def read_asked(store: Store, frozen: FrozenJob, shown: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an output's last run, what its job was frozen with, and `given` ones in their place.

    OutputError where the output does not tell them, or not all, and they are not given.
    """
    try:
        noted = json.loads(store.read(ASKED))
        options, left_out = dict(noted["options"]), list(noted["left_out"])
    except FileNotFoundError as error:
        raise OutputError(
            f"{shown}: expected an output that notes what was asked for, got one of an earlier release, or one that "
            f"was imported or derived; run the job's own `t5enc encode` with --recheck"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{shown}: {ASKED}: expected the options of a job, got {error}") from error
    missing = [name for name in left_out if name not in given]
    if missing:
        raise OutputError(
            f"{shown}: expected all options of its job in {ASKED}, got none for {', '.join(missing)}, which may hold "
            f"a secret, or are bytes; run the job's own `t5enc encode` with --recheck"
        )
    settled = {name: frozen.identity[name] for name in ("dtype", "storage_dtype")}
    return {**options, **settled, **given}
