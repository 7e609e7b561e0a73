"""A converted checkpoint, and a home for the hashes of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from t5enc.checkpoint.convert import convert
from tests.t5enc.conftest import Make


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of files are kept there."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def converted(make: Make, tmp_path: Path) -> Path:
    """t5_v1_1, fused."""
    convert(make("t5_v1_1").folder, tmp_path / "fused")
    return tmp_path / "fused"
