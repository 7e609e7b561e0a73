"""Weight files opened but not read: names at once, each tensor when it is asked for.

A tensor of a safetensors file, or of a zip-format .bin, is a view of the memory-mapped file: reading costs
page cache, which the system can take back, and no memory of its own.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t5enc.errors import CheckpointError

ReadTensor = Callable[[], Tensor]


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each read anew when it is looked up; `notes` are what the files' headers say beside them."""

    def __init__(self, readers: Mapping[str, ReadTensor], notes: Mapping[str, str] | None = None) -> None:
        self._readers = dict(readers)
        self.notes = dict(notes or {})

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def reader(self, name: str) -> ReadTensor:
        """What reads this tensor, without reading it."""
        return self._readers[name]


def open_tensors(paths: Iterable[Path]) -> LazyTensors:
    """All tensors of some weight files; CheckpointError for one that is torn or is something else."""
    readers: dict[str, ReadTensor] = {}
    notes: dict[str, str] = {}
    for path in paths:
        opened = _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)
        readers |= opened._readers
        notes |= opened.notes
    return LazyTensors(readers, notes)


def _open_safetensors(path: Path) -> LazyTensors:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        return LazyTensors({name: partial(file.get_tensor, name) for name in list(file.keys())}, file.metadata())
    except (SafetensorError, OSError) as error:
        found = f"{_describe(path)} ({error})"
        raise CheckpointError(f"{path}: expected a whole safetensors file, got {found}") from error


def _open_pickle(path: Path) -> LazyTensors:
    """Files from before PyTorch 1.6 are no zip archives, cannot be mapped, and are read whole."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        first_line, _, _ = str(error).strip().partition("\n")
        found = f"{_describe(path)} ({first_line})"
        raise CheckpointError(f"{path}: expected PyTorch weights, got {found}") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, got {type(tensors).__name__}")
    return LazyTensors({name: partial(tensors.__getitem__, name) for name in tensors})


def _describe(path: Path) -> str:
    """What a file that cannot be opened seems to be: most often it was never downloaded."""
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; `git lfs pull` fetches the file"
    return f"{path.stat().st_size} bytes of something else, or of a file cut short"
