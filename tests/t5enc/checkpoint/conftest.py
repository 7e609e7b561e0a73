"""A checkpoint that a test may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.families import make_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """A t5_v1_1 checkpoint in tmp_path / "model"."""
    return make_checkpoint("t5_v1_1", tmp_path / "model")
