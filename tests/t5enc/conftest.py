"""Random checkpoints of every family, each made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

from tests.families import make_checkpoint

# Time is a benchmark's matter.
settings.register_profile("t5enc", deadline=None)
settings.load_profile("t5enc")


class Made(NamedTuple):
    """A checkpoint's folder, and the transformers model whose weights lie there."""

    folder: Path
    model: Any


Make = Callable[..., Made]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make(family, **changed_fields)`; the same call gives the same checkpoint, which nobody changes."""
    known: dict[str, Made] = {}

    def make_once(family: str = "t5_v1_1", **fields: Any) -> Made:
        key = f"{family} {sorted(fields.items())}"
        if key not in known:
            folder = tmp_path_factory.mktemp(family)
            known[key] = Made(folder, make_checkpoint(family, folder, **fields))
        return known[key]

    return make_once
