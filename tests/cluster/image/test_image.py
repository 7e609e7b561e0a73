"""The image: its steps run in order, in a fresh folder and, in the battery, by a builder of images on a bare system."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster.requirements import find_name, list_requirements
from tests.cluster.image.bare_system import make_bare_system
from tests.cluster.image.dockerfile import DOCKERFILE, FreshFolder, list_chain, read_stages
from tests.cluster.kubernetes.manifests import REPOSITORY

TARGETS = ("cpu", "cuda")
PROJECT = {
    "name": "t5enc",
    "dependencies": ["torch>=2"],
    "optional-dependencies": {"data": ["t5enc[recipes,more]", "ray[data]>=2"], "recipes": ["ftfy"], "more": ["a_b"]},
}


def test_requirements_are_the_project_s_and_those_of_extras_within_extras() -> None:
    assert list_requirements(PROJECT, ["data", "more"]) == ["torch>=2", "ftfy", "a_b", "ray[data]>=2"]
    assert list_requirements(PROJECT, []) == ["torch>=2"]
    assert find_name("ray[data]>=2.60") == "ray"


def test_the_steps_of_the_image_run_in_a_fresh_folder(tmp_path: Path) -> None:
    """All but those of its base, which want root and packages of Debian."""
    folder, stages = FreshFolder(tmp_path), read_stages()
    folder.run_stage(stages["wheel"])
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert_everything_is_in(wheel)
    assert "Requirement already satisfied: ray" in folder.run_stage(stages["dependencies"])
    for target in TARGETS:
        said = folder.run_stage(stages[target])
        assert "Requirement already satisfied: torch" in said
        assert f"/{wheel.name}" in said


def assert_everything_is_in(wheel: Path) -> None:
    """The wheel holds every file of the packages that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "t5enc", "pipelines", "serve_app"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert set(listed.stdout.split()) <= packed


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_runs_as_somebody_without_rights(target: str) -> None:
    steps = [step for stage in list_chain(target) for step in stage.steps]
    (user,) = (rest for name, rest in steps if name == "USER")
    assert int(user) > 0
    assert any(f"useradd --uid {user}" in rest for _, rest in steps)
    assert ("VOLUME", "/cache") in steps
    last = max(index for index, (name, _) in enumerate(steps) if name == "RUN")
    assert steps.index(("USER", user)) > last


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_of_the_code_leaves_the_layers_below_it(target: str) -> None:
    """Dependencies are installed from what names them, before anything of the code is copied."""
    steps = [step for stage in list_chain(target) for step in stage.steps]
    code = steps.index(("COPY", "--from=wheel /wheels /wheels"))
    installs = [index for index, (name, rest) in enumerate(steps) if name == "RUN" and "--constraint" in rest]
    assert len(installs) == 2
    assert max(installs) < code
    copied = {name for kind, rest in steps[:code] if kind == "COPY" for name in rest.split()[:-1]}
    assert copied == {"pyproject.toml", "constraints.txt", "cluster/requirements.py"}


def test_every_requirement_is_pinned() -> None:
    said = subprocess.run(
        [sys.executable, "cluster/requirements.py", "pyproject.toml", "data", "serve"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    pinned = {normalize(name) for name in re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)}
    assert {normalize(find_name(line)) for line in said.stdout.split("\n") if line} <= pinned


def normalize(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.battery
def test_a_builder_of_images_makes_the_target_for_cpus(tmp_path: Path) -> None:
    """From a bare Debian with this Python, for the base of the Dockerfile is fetched from nowhere.

    T5ENC_BUILD_OPTIONS: what the builder needs here to reach package indexes (volumes with certificates and so on).
    """
    for tool in ("buildah", "debootstrap"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian: apt-get install {tool})")
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a bare system")
    builder = Builder(tmp_path)
    builder.add_base(read_stages()["base"].base)
    options = shlex.split(os.environ.get("T5ENC_BUILD_OPTIONS", ""))
    build = ["bud", "--pull-never", "--file", str(DOCKERFILE), "--target", "cpu", "--tag", "t5enc"]
    builder.run(*build, *options, str(REPOSITORY))
    container = builder.run("from", "--pull-never", "t5enc").strip()
    said = builder.run(
        "run", container, "--", "sh", "-c", "id -u; t5enc demo /tmp/demo; t5enc fsck /tmp/demo/embeddings"
    )
    assert said.splitlines()[0] == "1000"
    assert said.splitlines()[-1].endswith("plan, shards and manifest agree")


class Builder:
    """buildah with a store of its own, and steps in a chroot: it needs no daemon and no engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = ["--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def run(self, *arguments: str) -> str:
        """What a command of buildah says."""
        ended = subprocess.run(
            ["buildah", *self._store, *arguments],
            env=os.environ | {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{arguments}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
        return ended.stdout

    def add_base(self, name: str) -> None:
        """A bare system under the name that the Dockerfile begins with."""
        container = self.run("from", "scratch").strip()
        self.run("add", container, str(make_bare_system(self.folder / "base")), "/")
        self.run("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", container)
        self.run("commit", container, f"localhost/{name}")
