"""The command that exports: its options, and what it shows meanwhile and at the end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from t5enc.cli import build_app
from t5enc.commands import export_progress
from t5enc.commands.export import NAMES
from t5enc.commands.export_progress import format_bytes, show_ticks
from t5enc.commands.option_files import split_pair
from t5enc.errors import ConfigError, OutputError
from t5enc.trainers import FORMATS
from tests.t5enc.trainers.outputs import write_output

CAPTIONS = ["a", "b", "c"]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), ["export", *arguments], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_an_option_is_a_name_and_a_text_as_it_stands() -> None:
    assert split_pair("image-root=/a=b") == ("image_root", "/a=b")
    assert split_pair("trigger=") == ("trigger", "")
    for pair in ("trigger", "=a"):
        with pytest.raises(ConfigError, match="option: expected NAME=VALUE"):
            split_pair(pair)


def test_the_help_names_all_formats() -> None:
    assert NAMES.replace(" or ", ", ").split(", ") == list(FORMATS)


def test_all_that_happened_is_told(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", [*CAPTIONS, "a"], ["a.jpg", "b.jpg", "c.jpg", "x/a.png"], storage="float32")
    told = run("musubi", str(made.folder), "--to", str(tmp_path / "cache"), "--jobs", "2", "--option", "dtype=float16")
    assert "3 files to write" in told
    assert "1 rows have the file of an earlier row" in told
    again = run("musubi", str(made.folder), "--to", str(tmp_path / "cache"), "--option", "dtype=float16")
    assert "0 files, 0 bytes written" in again
    assert "3 files were there and whole" in again


def test_rounded_numbers_and_links_that_cannot_be_are_told(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, storage="float16", compute="float32")
    assert "note: computed in float32" in run("musubi", str(made.folder), "--to", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="--link: expected a format whose files may be our shards, got musubi"):
        run("musubi", str(made.folder), "--to", str(tmp_path / "cache"), "--link")
    with pytest.raises(OutputError, match="expected recipe wan"):
        run("musubi", str(write_output(tmp_path / "other", CAPTIONS, recipe="ltx").folder), "--to", str(tmp_path / "x"))


def test_a_terminal_has_a_bar_that_counts_files_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    monkeypatch.setattr(export_progress, "Console", lambda stderr: console)
    with show_ticks() as ticks:
        ticks.name(10)
        ticks.start(4)
        ticks.write(4, 2_500_000)
    assert "4/4" in stream.getvalue()
    assert "2.5 MB" in stream.getvalue()


def test_bytes_have_the_unit_that_fits() -> None:
    assert [format_bytes(size) for size in (0, 999, 1000, 2_540_000, 3 * 10**9, 5 * 10**13)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "2.5 MB",
        "3.0 GB",
        "50.0 TB",
    ]
