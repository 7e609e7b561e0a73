"""Every room has a README that names each of its modules, and no README names a file that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.rooms import ROOT, fill, list_readmes

READMES = [(path, table) for path, table in list_readmes()]
GUIDES = [*(path for path, _ in READMES), ROOT / "CONTRIBUTING.md", ROOT / "cluster" / "README.md"]
# `module.py`, `folder/`, `folder/file.json`: what looks like a place in this repository.
PLACE = re.compile(r"`([\w.-]+(?:/[\w.-]+)*(?:\.(?:py|json|md|html|toml|yaml|yml|txt)|/))`")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(("path", "table"), READMES, ids=[name(path) for path, _ in READMES])
def test_the_table_of_a_room_is_what_is_there(path: Path, table: str) -> None:
    readme = path.read_text(encoding="utf-8")
    assert fill(readme, table) == readme, "python -m docs.rooms writes it"


@pytest.mark.parametrize("path", GUIDES, ids=name)
def test_a_guide_names_only_places_that_are_there(path: Path) -> None:
    found = set(PLACE.findall(path.read_text(encoding="utf-8")))
    assert {place for place in found if not any((folder / place).exists() for folder in (path.parent, ROOT))} == set()
    assert "where do i change" in path.read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("path", GUIDES, ids=name)
def test_links_of_a_guide_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
