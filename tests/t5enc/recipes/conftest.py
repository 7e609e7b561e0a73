"""Checkpoints and encoders of the recipes' tests, each made once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.t5enc.recipes.checkpoints import write_checkpoint

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """`make_folder(kind, limit=None)`; the same call gives the same folder, which nobody changes."""
    known: dict[tuple[str, int | None], Path] = {}

    def make_once(kind: str, limit: int | None = None) -> Path:
        key = (kind, limit)
        if key not in known:
            known[key] = tmp_path_factory.mktemp(kind)
            write_checkpoint(kind, known[key], limit)
        return known[key]

    return make_once


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models as tiny as these lose time to threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
