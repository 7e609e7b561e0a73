"""Jobs that reuse earlier outputs, with indexes in a folder of each test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indexes of keys lie."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("pipelines.reuse.index_cache.find_cache", lambda: folder)
    return folder
