"""What a trainer's cache is to an import: its files in order, the caption of each, and its rows.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from t5enc.errors import SourceError
from t5enc.recipes.recipe import Recipe
from t5enc.storage.layout import JOB


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of a cache, or a row of one: its path below the cache's folder and its place there, the caption that it is
    of, and the stem of its image.
    """

    file: str
    text: str
    stem: str
    place: int = 0


@dataclass(slots=True, kw_only=True)
class Found:
    """The entries of a cache in order, and how many files were left out, by reason."""

    entries: list[Entry] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


class CacheReader(Protocol):
    """How a trainer's cache is read."""

    @property
    def name(self) -> str:
        """Of the trainer's format, as `t5enc export` has it."""

    @property
    def recipe(self) -> Recipe:
        """What the trainer's text path is."""

    def find(self, folder: Path) -> Found:
        """All files of the cache, and their captions."""

    def read(self, path: Path, place: int = 0) -> Tensor:
        """The rows (L, M) of a file, or of what is at a place of it; ValueError where it is damaged."""


def list_files(folder: Path, suffix: str) -> Iterator[str]:
    """The files of a folder, and those below it, in order of their names; SourceError where there is no folder.

    An output of ours that lies there is no part of a cache.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: expected the folder of a cache, got none")
    for where, folders, files in os.walk(folder):
        if (Path(where) / JOB).exists():
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(suffix) and not name.startswith("."):
                yield os.path.relpath(os.path.join(where, name), folder).replace(os.sep, "/")


def cut_zeros(rows: Tensor) -> Tensor:
    """Padded rows (S, M) without the zeros at their end: no token of an encoder is all zeros."""
    (filled,) = rows.ne(0).any(dim=1).nonzero(as_tuple=True)
    return rows[: int(filled[-1]) + 1] if len(filled) else rows[:0]


def read_captions(path: Path, column: str) -> Iterable[str]:
    """The captions of a Parquet file's column, or the lines of a text file; SourceError where they cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            texts: list[str | None] = pq.read_table(path, columns=[column])[column].cast(pa.large_string()).to_pylist()
            return [text for text in texts if text is not None]
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{path}: expected captions in column {column!r}, or a line each, got {error}") from error
