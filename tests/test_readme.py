"""The commands and the Python of the README do what it says, in the order in which it says it."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from t5enc.cli import build_app

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)( setup)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a newcomer sees after the command `t5enc` is what this environment's module does.
COMMAND = '#!/bin/sh\nexec "$PYTHON" -m t5enc "$@"\n'


def blocks(*, setup: bool) -> list[tuple[str, str]]:
    return [(kind, text) for kind, is_setup, text in BLOCK.findall(README) if bool(is_setup) == setup]


def list_commands() -> list[list[str]]:
    """The words behind `t5enc` of every call of it."""
    bash = "".join(text for kind, text in blocks(setup=False) if kind == "bash")
    lines = [shlex.split(line, comments=True) for line in bash.splitlines()]
    return [line[1:] for line in lines if line and line[0] == "t5enc"]


@pytest.mark.parametrize("words", list_commands(), ids=" ".join)
def test_every_command_of_the_readme_has_the_options_that_it_is_given(words: list[str]) -> None:
    """Their help is asked for, which is given only where the options before are known."""
    shell = next((place for place, word in enumerate(words) if word in (">", "|", "&")), None)
    answer = CliRunner().invoke(build_app(), [*words[:shell], "--help"])
    assert answer.exit_code == 0, answer.output


def test_what_the_python_of_the_readme_imports_is_there() -> None:
    for kind, text in blocks(setup=False):
        if kind == "python":
            found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(found, []), "README.md", "exec"), {})


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_every_command_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="needs ray[data,serve]")
    command = tmp_path / "bin" / "t5enc"
    command.parent.mkdir()
    command.write_text(COMMAND)
    command.chmod(0o700)
    environment = {
        "PATH": f"{command.parent}:/usr/bin:/bin",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "disabled",
    }
    for kind, text in blocks(setup=False):
        arguments = ["bash", "-euc", text] if kind == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_the_make_targets_of_the_readme_exist() -> None:
    for line in "".join(text for _, text in blocks(setup=True)).splitlines():
        command = line.partition("#")[0].split()
        if command and command[0] == "make":
            subprocess.run(["make", "-n", *command[1:]], cwd=REPOSITORY, check=True, capture_output=True)


def test_the_extras_of_the_readme_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r'"\.\[(\w+)\]"', README)
    assert named
    assert set(named) <= set(extras)


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert README.count("\n") < 150
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target
