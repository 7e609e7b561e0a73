"""The instructions of the Dockerfile, and those of its steps that can run in a fresh folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.kubernetes.manifests import FOLDER, REPOSITORY

DOCKERFILE = FOLDER / "Dockerfile"
# What is installed here already is found to be so, and nothing is fetched: a requirement that this environment does not
# meet fails. `pip wheel` builds with what is here.
PIP = {"PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@dataclass
class Stage:
    """A stage: what it begins with, and its instructions as (name, rest)."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def read_stages() -> dict[str, Stage]:
    """Stages by name, in order."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    for line in text.replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            current = stages[stage] = Stage(stage, base)
        elif name:
            current.steps.append((name, " ".join(rest.split())))
    return stages


def list_chain(target: str) -> list[Stage]:
    """The stages that a target is made of, the first one first."""
    stages = read_stages()
    chain = [stages[target]]
    while chain[0].base in stages:
        chain.insert(0, stages[chain[0].base])
    return chain


def read_context(folder: Path) -> None:
    """Copy what `.dockerignore` lets into the context: everything is left out but for the names after a `!`."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*", "expected .dockerignore to leave out everything first"
    for name in (pattern[1:] for pattern in patterns if pattern.startswith("!")):
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


class FreshFolder:
    """Runs COPY and RUN of a stage: `/src` and `/wheels` are folders in it, and pip is that of this environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.context, self.work = root / "context", root / "src"
        self.work.mkdir()
        (root / "wheels").mkdir()
        read_context(self.context)

    def run_stage(self, stage: Stage) -> str:
        """What its steps say, in order."""
        arguments = dict(rest.split("=", 1) for name, rest in stage.steps if name == "ARG")
        said = ""
        for name, rest in stage.steps:
            if name == "COPY" and not rest.startswith("--from"):
                self._copy(rest.split())
            elif name == "RUN":
                said += self._run(rest, arguments)
        return said

    def _copy(self, names: list[str]) -> None:
        *sources, last = names
        target = self.work / last
        for source in (self.context / name for name in sources):
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)

    def _run(self, command: str, arguments: dict[str, str]) -> str:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        ended = subprocess.run(
            ["sh", "-euc", command.replace("/wheels", f"{self.root}/wheels")],
            cwd=self.work,
            env={"PATH": path, "HOME": str(self.root), "TMPDIR": os.environ.get("TMPDIR", "/tmp")} | PIP | arguments,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"RUN {command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout
