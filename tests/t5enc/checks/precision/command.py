"""The command as it is typed, and a few texts to measure on."""

from __future__ import annotations

from click.testing import Result as CommandResult
from typer.testing import CliRunner

from t5enc.cli import build_app

FEW = ["a bird", "a red bird on a long branch in the rain", "rain"]


def invoke(*arguments: str) -> CommandResult:
    return CliRunner().invoke(build_app(), list(arguments), env={"COLUMNS": "200"})
