"""Jobs that reuse earlier outputs, with indexes in a folder of each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.reuse.jobs import CAPTIONS, encode, write


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indexes of keys lie."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("pipelines.reuse.index_cache.find_cache", lambda: folder)
    return folder


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Captions that the earlier and the fresh job have encoded."""
    folder = write(tmp_path / "in", CAPTIONS)
    encode(folder, tmp_path / "old")
    encode(folder, tmp_path / "fresh")
    return folder
