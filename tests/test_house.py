"""No file is too long to be one idea, and no folder too full to be looked over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("t5enc", "pipelines", "serve_app", "benchmarks", "tests")
MOST_LINES, MOST_MODULES = 299, 15


def list_modules(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def count_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_is_longer_than_a_few_screens(folder: str) -> None:
    lines = {path.relative_to(REPOSITORY).as_posix(): count_lines(path) for path in list_modules(folder)}
    assert lines
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_has_more_modules_than_are_seen_at_a_glance(folder: str) -> None:
    modules = Counter(path.parent.relative_to(REPOSITORY).as_posix() for path in list_modules(folder))
    assert {name: count for name, count in modules.items() if count > MOST_MODULES} == {}
