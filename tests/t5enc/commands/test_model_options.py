"""Where a model is: the same options for every command that names one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from t5enc.cli import build_app, report_error
from t5enc.commands.model_options import HELP, SOURCE, name_flags, takes_model_options
from t5enc.errors import T5encError
from t5enc.options import ModelSource
from tests.t5enc.checkpoint.test_layouts import make_state


def list_flags(command: str) -> set[str]:
    """The options of a command, as they are typed."""
    found: Any = typer.main.get_command(build_app())
    return {flag for parameter in found.commands[command].params for flag in parameter.opts}


def list_commands(group: Any, start: str = "") -> Iterator[tuple[str, Any]]:
    """Every command there is, and its name with those of its groups."""
    for name, command in group.commands.items():
        yield from (
            list_commands(command, f"{start}{name} ") if hasattr(command, "commands") else [(start + name, command)]
        )


ALL = dict(list_commands(typer.main.get_command(build_app())))
NAMING = [name for name, command in ALL.items() if any(parameter.name == "model" for parameter in command.params)]


def test_commands_that_name_a_model_are_found() -> None:
    assert set(NAMING) == {"bench", "calibrate", "convert", "encode", "plan", "serve", "verify"}


@pytest.mark.parametrize("command", NAMING)
def test_every_command_that_names_a_model_asks_for_its_place_alike(command: str) -> None:
    names = SOURCE if command == "convert" else HELP
    assert {f"--{name.replace('_', '-')}" for name in names} <= list_flags(command)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model in one file, without a tokenizer, and captions beside it."""
    state, _ = make_state("t5_v1_1", tmp_path)
    save_file(state, tmp_path / "t5xxl.safetensors")
    pq.write_table(pa.table({"caption": ["a red bird"]}), tmp_path / "captions.parquet")
    return tmp_path


@pytest.mark.parametrize("command", [name for name in NAMING if name not in ("convert", "verify", "serve")])
def test_what_a_message_says_to_give_is_an_option_of_the_command(
    command: str, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(bare / "t5xxl.safetensors")
    captions = [str(bare / "captions.parquet")] if command in ("encode", "plan") else []
    place = [model] if command == "calibrate" else ["--model", model]
    if command == "encode":  # its message comes from another process: what that one does is done here
        from pipelines.job import EncodeJob
        from pipelines.run.resolved_job import resolve_job

        job = EncodeJob(inputs=captions, output=str(bare / "out"), model=model)
        with pytest.raises(T5encError) as caught:
            resolve_job(job, torch.device("cpu"))
        error = caught.value
    else:
        result = CliRunner().invoke(build_app(), [command, *captions, *place])
        assert isinstance(result.exception, T5encError)
        error = result.exception
    report_error(error)
    said = capsys.readouterr().err
    flags = set(re.findall(r"--[a-z-]+", said))
    assert flags == {"--tokenizer"}
    assert flags <= list_flags(command)
    assert "as tokenizer=" not in said


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("give another place as tokenizer=", "give another place as --tokenizer"),
        ("(a private one needs token=)", "(a private one needs --token)"),
        ("or read it with partial=True", "or read it with --partial"),
        ("token=abc, my_tokenizer= and --token=", "token=abc, my_tokenizer= and --token="),
        ("pooler=t5enc.open_pooler(MODEL)", "pooler=t5enc.open_pooler(MODEL)"),
    ],
)
def test_messages_call_options_as_they_are_typed(message: str, typed: str) -> None:
    assert name_flags(message) == typed


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
