"""The documentation builds without a warning, asks no other host for anything, and says what the code says."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from t5enc import errors
from t5enc.cli import build_app

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("t5enc", "pipelines", "serve_app")
PAGES = sorted((ROOT / "docs").glob("*.md"))
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CLASSES = {
    name: found
    for name, found in inspect.getmembers(errors, inspect.isclass)
    if found.__module__ == "t5enc.errors" and issubclass(found, Exception)
}
# What a page loads by itself; an address to click on is none of it.
LOADED = re.compile(
    r"""<(?:script|img|iframe)[^>]+src=["']?(?:https?:)?//|<link[^>]+rel=["']?(?:stylesheet|preconnect)["']?[^>]+//"""
)


def test_the_pages_build_strictly_and_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs t5enc[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "troubleshooting" / "index.html").is_file()
    assert {page for page in tmp_path.rglob("*.html") if LOADED.search(page.read_text(encoding="utf-8"))} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_only_files_that_are_there(page: Path) -> None:
    found = re.findall(
        r"`((?:t5enc|pipelines|serve_app|tests|benchmarks|cluster)/[\w./-]+\.\w+)`", page.read_text("utf-8")
    )
    assert [name for name in found if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_have_the_options_that_they_are_given(page: Path) -> None:
    """Their help is asked for, which is given only where the options before are known."""
    app = build_app()
    for words in list_commands(page.read_text(encoding="utf-8")):
        answer = CliRunner().invoke(app, [*words, "--help"])
        assert answer.exit_code == 0, answer.output


def list_commands(page: str) -> list[list[str]]:
    """The words behind `t5enc` of every call of it in a block of bash."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words[1:] for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "t5enc"]


def test_every_error_is_explained_and_no_other() -> None:
    named = set(re.findall(r"^\| `(\w+Error)` \|", TROUBLE, re.MULTILINE))
    assert named == set(CLASSES) - {"T5encError"}


def test_every_exit_code_is_explained() -> None:
    table = TROUBLE[TROUBLE.index("## Exit codes") : TROUBLE.index("## Errors by")]
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert {int(code) for code in errors.ExitCode} == named


def test_every_message_that_is_quoted_is_one_of_the_code() -> None:
    """Word by word; `...` stands for what a message fills in."""
    code = " ".join(path.read_text(encoding="utf-8") for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    said = join_literals(code)
    cells = re.findall(r"^\| (.*?) \|", TROUBLE[TROUBLE.index("## Models") :], re.MULTILINE)
    quoted = re.findall(r"`([^`]+)`", " ".join(cells))
    assert len(quoted) > 40
    parts = {part.strip() for message in quoted for part in message.split("...")}
    assert {part for part in parts if part not in said} == set()


def test_every_error_that_a_repetition_mends_is_explained() -> None:
    """Whoever is told to run the command again wants to know what has happened."""
    code = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "pipelines").rglob("*.py"))
    told = re.findall(r'DriverError\(\s*f?"([^"]*run the same command again[^"]*)"', join_literals(code))
    assert len(told) > 5
    parts = [part.strip() for quoted in re.findall(r"`([^`\n]+)`", TROUBLE) for part in quoted.split("...")]
    explained = [part for part in parts if " " in part]
    assert [message for message in told if not any(part in message for part in explained)] == []


def join_literals(code: str) -> str:
    """Texts that go on in the next line of a program as one text, and `...` for what an f-string fills in."""
    return re.sub(r"\{[^{}]*\}", "...", re.sub(r'"\s+f?"', "", code))
