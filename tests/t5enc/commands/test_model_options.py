"""Where a model is: the same options for every command that names one."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from t5enc.cli import build_app
from t5enc.commands.model_options import HELP, SOURCE, takes_model_options
from t5enc.options import ModelSource


def list_flags(command: str) -> set[str]:
    """The options of a command, as they are typed."""
    found: Any = typer.main.get_command(build_app())
    return {flag for parameter in found.commands[command].params for flag in parameter.opts}


@pytest.mark.parametrize("command", ["bench", "calibrate", "verify", "encode", "plan", "serve", "convert"])
def test_every_command_that_names_a_model_asks_for_its_place_alike(command: str) -> None:
    names = SOURCE if command == "convert" else HELP
    assert {f"--{name.replace('_', '-')}" for name in names} <= list_flags(command)


def test_they_are_what_a_source_holds() -> None:
    assert ["model", *SOURCE] == [entry.name for entry in fields(ModelSource)]


def test_a_command_is_given_what_was_said_and_no_more() -> None:
    told: list[dict[str, Any]] = []
    app = typer.Typer()

    @app.command()
    @takes_model_options()
    def show(model: str = "m", *, place: dict[str, Any]) -> None:
        told.append({"model": model, **place})

    for arguments in ([], ["--model", "a", "--token", "t", "--local-files-only"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert told == [{"model": "m"}, {"model": "a", "token": "t", "local_files_only": True}]
