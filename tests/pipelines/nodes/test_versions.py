"""Whether all nodes run the same code, and what is said where they do not."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.nodes import versions
from pipelines.nodes.selectors import list_nodes
from pipelines.nodes.versions import check_code, check_nodes, compare_code, explain_differences, read_code
from t5enc.errors import ConfigError
from tests.pipelines.conftest import WriteCaptions

REPOSITORY = Path(__file__).resolve().parents[3]
CODE = {"t5enc": "source abc", "Python": "3.11.7", "torch": "2.13.0+cpu"}


def copy_packages(folder: Path) -> Path:
    """The packages as they are here, but for a comment."""
    for name in ("t5enc", "pipelines"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "t5enc" / "errors.py").open("a") as file:
        file.write("# another version\n")
    return folder


@pytest.mark.parametrize(
    ("name", "version", "differs"),
    [
        ("t5enc", "source abd", True),
        ("t5enc", "not installed", True),
        ("Python", "3.11.9", False),
        ("Python", "3.12.7", True),
        ("torch", "2.13.1+cu130", False),
        ("torch", "2.14.0+cpu", True),
    ],
)
def test_the_source_and_the_versions_that_matter_are_compared(name: str, version: str, differs: bool) -> None:
    found = compare_code(CODE, CODE | {name: version})
    assert found == ({name: (CODE[name], version)} if differs else {})


def test_what_differs_is_said_by_node_with_what_to_do() -> None:
    said = explain_differences({"node 10.0.0.7": {"torch": ("2.13", "2.11")}, "node 10.0.0.8": {}})
    assert "use one image everywhere, or --ship-code" in said
    assert said.endswith(":\n  node 10.0.0.7: torch: expected 2.13, got 2.11")
    many = explain_differences({f"node {number}": {"torch": ("2.13", "2.11")} for number in range(10)})
    assert many.endswith("\n  and 2 more")


def test_an_actor_that_joins_later_checks_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    check_code(read_code(), "an actor on n1")
    monkeypatch.setattr(versions, "read_code", lambda: CODE)
    with pytest.raises(ConfigError, match=r"an actor on n1: t5enc: expected source [0-9a-f]{12}, got source abc"):
        check_code(read_code(), "an actor on n1")


def test_a_changed_line_is_another_source(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from pipelines.nodes.versions import read_code; print(read_code()['t5enc'])"]
    environment = os.environ | {"PYTHONPATH": str(copy_packages(tmp_path))}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() not in ("", read_code()["t5enc"])


def test_a_node_without_the_packages_can_still_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cloudpickle: Any = pytest.importorskip("ray.cloudpickle", reason="needs ray[data]")
    sent = cloudpickle.dumps(read_code)
    for name in ("t5enc", "pipelines", "pipelines.nodes.versions"):
        monkeypatch.setitem(sys.modules, name, None)
    assert pickle.loads(sent)()["t5enc"] == "not installed"


@pytest.mark.usefixtures("local_ray")
def test_every_node_is_asked_and_a_live_one_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_nodes(list_nodes()) == read_code()
    monkeypatch.setattr(versions, "compare_code", lambda expected, found: {"torch": ("2.13", found["torch"])})
    with pytest.raises(ConfigError, match=r"node [0-9.]+ \([0-9a-f]{8}\): torch: expected 2.13, got 2\."):
        check_nodes(list_nodes())


@pytest.mark.usefixtures("local_ray")
def test_a_node_that_has_gone_meanwhile_is_passed_over() -> None:
    gone = SimpleNamespace(id="0" * 56, address="10.0.0.9")
    assert check_nodes([*list_nodes(), gone]) == read_code()  # type: ignore[list-item]


@pytest.mark.cluster
def test_a_node_with_other_code_is_refused_by_name_and_works_with_code_that_is_shipped(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs ray[data]")
    write_captions(["a red bird", "a blue bird"])
    packages = copy_packages(tmp_path / "packages")
    # Ray has workers import from the driver's current folder first, which is therefore not this repository.
    command = [sys.executable, "-P", str(Path(__file__).with_name("mixed_code.py")), str(tmp_path), str(packages)]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused, shipped = (json.loads(line) for line in done.stdout.splitlines())
    assert refused["error"] == "ConfigError"
    assert "t5enc: expected source" in refused["said"]
    assert shipped == {"encoded": 2}
    assert not (tmp_path / "out-False").exists()
