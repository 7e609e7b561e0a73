"""Options that say nothing, as where a variable is not set, are refused by name, and never mean the working folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines import EncodeJob
from pipelines.inputs.sources import open_inputs
from pipelines.stores.store import open_store
from serve_app.config import ServeConfig
from t5enc import TextEncoder, load_embeddings
from t5enc.cli import build_app
from t5enc.errors import ConfigError, OutputError, SourceError, T5encError
from t5enc.options import EncoderOptions, ModelSource

TINY = ("--model", "builtin:tiny")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are run; nothing may be made there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("inputs", ["encode", "", "--output", "out", *TINY]),
        ("inputs", ["encode", "in", " ", "--output", "out", *TINY]),
        ("output", ["encode", "in", "--output", "", *TINY]),
        ("output", ["encode", "in", "--output=", *TINY]),
        ("model", ["encode", "in", "-o", "out", "--model", ""]),
        ("tokenizer", ["encode", "in", "-o", "out", *TINY, "--tokenizer", "\t"]),
        ("compile_cache", ["encode", "in", "-o", "out", *TINY, "--compile-cache", ""]),
        ("config", ["encode", "in", "-o", "out", *TINY, "--config", ""]),
        ("token", ["encode", "in", "-o", "out", *TINY, "--token", ""]),
        ("inputs", ["plan", "", *TINY]),
        ("config", ["plan", "in", "--config", ""]),
        ("output", ["fsck", ""]),
        ("path", ["inspect", ""]),
        ("folder", ["demo", ""]),
        ("model", ["convert", "", "out"]),
        ("out", ["convert", "builtin:tiny", ""]),
        ("tokenizer", ["add-sentinels", "", "out.model"]),
        ("out", ["add-sentinels", "in", ""]),
        ("texts", ["bench", "--texts", ""]),
        ("json", ["verify", "builtin:tiny", "--json", ""]),
        ("model", ["calibrate", ""]),
        ("name", ["recipes", "show", ""]),
        ("keys_file", ["serve", *TINY, "--keys-file", ""]),
        ("write_deploy_file", ["serve", *TINY, "--write-deploy-file", ""]),
        ("file", ["serve-check", ""]),
    ],
)
def test_a_blank_argument_is_refused_by_its_name(name: str, command: list[str], empty_folder: Path) -> None:
    result = CliRunner().invoke(build_app(), command)
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith(f"{name}: expected a value, got ")
    assert list(empty_folder.iterdir()) == []


MODEL = {"model": "builtin:tiny"}


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("inputs", EncodeJob, MODEL | {"inputs": ["in", ""], "output": "out"}),
        ("output", EncodeJob, MODEL | {"inputs": ["in"], "output": " "}),
        ("model", EncodeJob, {"model": "", "inputs": ["in"], "output": "out"}),
        ("model", ModelSource, {"model": ""}),
        ("model", TextEncoder.from_pretrained, {"model": "\n"}),
        ("tokenizer", EncoderOptions, MODEL | {"tokenizer": ""}),
        ("compile_cache", EncoderOptions, MODEL | {"compile_cache": ""}),
        ("recipe", EncoderOptions, MODEL | {"recipe": ""}),
        ("model: compile_cache", ServeConfig, MODEL | {"compile_cache": ""}),
        ("keys_file", ServeConfig, MODEL | {"keys_file": ""}),
    ],
)
def test_a_blank_option_is_refused_from_python_and_yaml(name: str, kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: expected a value, got .*; is a variable not set\?"):
        kind(**options)


@pytest.mark.parametrize(
    ("read", "error"), [(load_embeddings, OutputError), (lambda path: open_inputs([path]), SourceError)]
)
@pytest.mark.parametrize("path", ["", "  "])
def test_a_blank_path_is_no_folder_to_any_reader(read: Any, error: type[T5encError], path: str) -> None:
    with pytest.raises(error, match="got: no path"):
        read(path)


def test_an_output_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(OutputError, match=r"can't encode character '\\udce9'"):
        open_store("caf\udce9")
