"""`t5enc verify OUTPUT`: what `t5enc verify` does where it is given an output, and which options it takes there."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import typer

from t5enc.errors import ConfigError, ExitCode

# Options that only the one of both takes.
OF_MODELS = ("recipe_option", "texts", "dtype", "attention", "max_length", "tolerance", "peers", "plot")
OF_OUTPUTS = ("rows", "seed", "against", "captions", "model")


def is_output(target: str | None) -> bool:
    """Whether a folder or URI is an output of `t5enc encode`, of any format."""
    import os

    if target is None or not (os.path.isdir(target) or "://" in target):
        return False
    from t5enc.storage.filesystems import find_filesystem
    from t5enc.storage.layout import JOB, OLD_JOB

    filesystem, root = find_filesystem(target)
    return any(info.is_file for info in filesystem.get_file_info([f"{root}/{name}" for name in (JOB, OLD_JOB)]))


def refuse_given(context: typer.Context, names: Collection[str], what: str) -> None:
    """ConfigError for an option that was given and says nothing to what is verified."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"{name}: expected none with {what}, got {context.params[name]}")


def verify_stored(target: str, given: dict[str, Any], place: dict[str, Any], json: str | None) -> None:
    """Verify an output, print the table, write the JSON; ends with 1 where it is not sound."""
    from rich.console import Console

    from t5enc.checks.json_report import write_json
    from t5enc.checks.output.table import print_output_report
    from t5enc.checks.output.verify import verify_output
    from t5enc.checks.terminal import show_progress

    rows = given.pop("rows")
    with show_progress() as progress:
        report = verify_output(target, rows=_read_rows(rows), place=place, progress=progress, **given)
    print_output_report(report, Console())
    if json:
        write_json(json, report.describe())
    if not report.is_sound:
        raise typer.Exit(ExitCode.FAILED)


def _read_rows(rows: str) -> int | None:
    """A number, or None for all."""
    if rows == "all":
        return None
    if not rows.isdecimal():
        raise ConfigError(f"rows: expected a number, or all, got {rows!r}")
    return int(rows)
