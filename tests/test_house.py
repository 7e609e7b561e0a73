"""No file is too long to be one idea, and no folder too full to be looked over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("t5enc", "pipelines", "serve_app")
MOST_LINES, MOST_MODULES = 299, 15
# Where one thing has many tests, or a room is still to be cut in two.
LONG_MODULES = {
    "serve_app/served/service.py",
    "t5enc/checkpoint/convert.py",
    "t5enc/hf/__init__.py",
    "t5enc/hf/stack.py",
    "t5enc/model/attention.py",
    "t5enc/recipes/families.py",
    "t5enc/text_encoder.py",
    "tests/cluster/test_manifests.py",
    "tests/pipelines/actors/test_captions.py",
    "tests/pipelines/actors/test_worker.py",
    "tests/pipelines/commit/test_manifest.py",
    "tests/pipelines/commit/test_protocol.py",
    "tests/pipelines/stores/test_object_store.py",
    "tests/pipelines/stores/test_store.py",
    "tests/serve_app/client/test_client.py",
    "tests/serve_app/http/test_metrics.py",
    "tests/serve_app/test_recipes.py",
    "tests/t5enc/checkpoint/test_convert.py",
    "tests/t5enc/checks/precision/test_verify.py",
    "tests/t5enc/hf/test_hf.py",
    "tests/t5enc/online/test_batcher.py",
    "tests/t5enc/recipes/pipelines.py",
    "tests/t5enc/test_text_encoder.py",
}
FULL_FOLDERS = {"tests/cluster": 20, "tests/pipelines": 16}


def list_modules(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def count_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


@pytest.mark.parametrize("folder", [*PACKAGES, "benchmarks", "tests"])
def test_no_module_is_longer_than_a_few_screens(folder: str) -> None:
    lines = {path.relative_to(REPOSITORY).as_posix(): count_lines(path) for path in list_modules(folder)}
    assert lines
    assert {name: count for name, count in lines.items() if count > MOST_LINES and name not in LONG_MODULES} == {}


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_no_folder_has_more_modules_than_are_seen_at_a_glance(folder: str) -> None:
    modules = Counter(path.parent.relative_to(REPOSITORY).as_posix() for path in list_modules(folder))
    assert {name: count for name, count in modules.items() if count > FULL_FOLDERS.get(name, MOST_MODULES)} == {}
