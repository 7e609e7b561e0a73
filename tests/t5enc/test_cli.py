"""The command line: quick to help, and an error is one sentence and an exit code, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from t5enc.cli import main, report_error
from t5enc.errors import ConfigError, PrecisionError, show_invisible
from tests.t5enc.written import finish, make_embeddings, make_table, write_job, write_shard

HEAVY = ("torch", "transformers", "ray", "pandas", "pyarrow", "numpy")
LIST_HEAVY = f"print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command line in this process; what it exits with."""
    monkeypatch.setattr(sys, "argv", ["t5enc", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def run_python(code: str) -> tuple[str, list[str]]:
    """What code prints in a fresh process, and the heavy modules that it loaded."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\n{LIST_HEAVY}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.split()


@pytest.mark.parametrize("module", ["t5enc", "t5enc.cli", "t5enc.storage", "t5enc.storage.codecs"])
def test_what_the_command_line_imports_loads_nothing_heavy(module: str) -> None:
    assert run_python(f"import {module}") == ("", [])


@pytest.mark.parametrize("command", ["", "inspect", "bench", "encode"])
def test_help_loads_nothing_heavy(command: str) -> None:
    arguments = ["t5enc", *command.split(), "--help"]
    shown, heavy = run_python(f"sys.argv = {arguments}; import t5enc.cli; t5enc.cli.main()")
    assert "Usage: t5enc" in shown
    assert heavy == []


def test_help_lists_the_commands_of_both_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    for command in ("inspect", "bench", "version", "encode"):
        assert command in shown


def test_the_version_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "version") == 0
    assert capsys.readouterr().out[0].isdigit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "absent"), "error: absent: expected the output of a t5enc job"),
        (("bench", "--model", "builtin:huge"), "error: builtin:huge: expected one of builtin:tiny"),
        (("bench", "--attention", "flash"), "error: attention: expected one of auto, flex, sdpa, got 'flash'"),
        (("bench", "--dtype", "int8"), "error: dtype: expected auto or one of"),
        (("bench", "--texts", "absent.txt"), "error: absent.txt: expected a UTF-8 text file"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert "Traceback" not in shown


@pytest.mark.parametrize("arguments", [("inspect",), ("bench", "--rounds", "0"), ("nothing",), ("bench", "--absent")])
def test_wrong_usage_ends_with_2(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert "Usage: t5enc" in capsys.readouterr().err


def test_what_looks_like_markup_in_an_error_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(PrecisionError({3: "[/b] [red]"}))
    assert capsys.readouterr().err == "error: 1 text(s) could not be encoded: texts[3]: [/b] [red]\n"


def test_inspect_shows_a_job_and_its_first_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out [1]"
    write_job(folder)
    captions = ["a bird [/b] [red]", "failed", "b" * 100, "beyond"]
    write_shard(folder, "a/0.parquet", make_table(captions, make_embeddings([2, 1, 1, 1]), failed=[1]))
    finish(folder, ["a/0.parquet"])
    assert run(monkeypatch, "inspect", str(folder), "--rows", "3") == 0
    shown = capsys.readouterr().out
    assert "out [1]: finished, 1 shards" in shown.replace("\n", "")
    for expected in ("builtin:tiny", "1,234", "a bird [/b] [red]", "none: it failed", "b" * 47 + "…", "(2, 4) ["):
        assert expected in shown
    assert "beyond" not in shown


def test_inspect_looks_at_an_unfinished_job_only_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_job(tmp_path)
    assert run(monkeypatch, "inspect", str(tmp_path)) == 2
    assert "the job is not finished" in capsys.readouterr().err
    assert run(monkeypatch, "inspect", str(tmp_path), "--partial") == 0
    assert "unfinished, 0 shards" in capsys.readouterr().out.replace("\n", "")


def test_bench_prints_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a bird\n\na red bird\n")
    arguments = ("--rounds", "1", "--token-budget", "64", "--max-length", "32", "--texts", str(texts))
    assert run(monkeypatch, "bench", *arguments) == 0
    shown = capsys.readouterr().out
    for expected in ("builtin:tiny on cpu", "2 texts", "useful tokens/s", "streams of 64 tokens", "0 compiled graphs"):
        assert expected in shown


def test_bench_refuses_a_file_without_captions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    assert run(monkeypatch, "bench", "--texts", str(tmp_path / "empty.txt")) == 2
    assert "expected one caption a line, got none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sign", "shown"),
    [
        ("\u202a", r"\u202a"),
        ("\u200b", r"\u200b"),
        ("\ufeff", r"\ufeff"),
        ("\u00a0", r"\xa0"),
        ("\r", r"\r"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\udce9", r"\udce9"),
    ],
)
def test_what_nobody_sees_in_an_error_is_shown(sign: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    report_error(ConfigError(f"{sign}/data/鳥 é.parquet: not there:\n  at all"))
    assert capsys.readouterr().err == f"error: {shown}/data/鳥 é.parquet: not there:\n  at all\n"


def test_a_line_end_in_a_path_is_shown_too() -> None:
    assert show_invisible("a b\tc\n") == r"a b\tc\n"
