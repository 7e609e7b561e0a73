"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# Time is a benchmark's matter.
settings.register_profile("t5enc", deadline=None)
settings.load_profile("t5enc")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real prompts and tokenizers beside a checkout; tests that want them skip elsewhere."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder `shared` with real tokenizers and prompts beside the checkout")
    return SHARED
