"""The commands and the Python of the README do what it says, in the order in which it says it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)( setup)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a newcomer sees after the command `t5enc` is what this environment's module does.
COMMAND = '#!/bin/sh\nexec "$PYTHON" -m t5enc "$@"\n'


def blocks(*, setup: bool) -> list[tuple[str, str]]:
    return [(kind, text) for kind, is_setup, text in BLOCK.findall(README) if bool(is_setup) == setup]


@pytest.mark.slow
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
