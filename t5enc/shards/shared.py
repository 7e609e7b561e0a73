"""The embeddings that rows of an output refer to, where equal ones are stored once, read by byte range.

R rows that refer, U rows of `shared/` that they refer to.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from t5enc.embeddings import Embeddings
from t5enc.errors import OutputError
from t5enc.shards.fetching import Fetching, fetch
from t5enc.shards.files import OpenShard, open_shard
from t5enc.shards.index import TOKENS, ShardIndex, name_row, read_content_keys, read_index
from t5enc.shards.located import Located, count_before, locate, split_rows
from t5enc.shards.process import Process
from t5enc.shards.references import References
from t5enc.shards.row_groups import DecodedGroup, read_group
from t5enc.storage import KEY, NOT_SHARED, SHARED_ROW
from t5enc.storage.codecs import decode_into, working_dtype
from t5enc.storage.layout import SHARED

THREADS = 4
# What is read of rows that may refer to others, beside their bytes.
REFERRING = (SHARED_ROW.name, TOKENS, KEY.name)


def name_referring(present: Sequence[str]) -> list[str]:
    """The columns by which rows refer to others, of a shard with these; none where no row does."""
    return [name for name in REFERRING if name in present] if SHARED_ROW.name in present else []


class SharedRows:
    """The rows of `shared/` by number, read by byte range: of many threads, and of processes that are forked too."""

    def __init__(
        self, filesystem: Any, root: str, names: Sequence[str], *, storage: str, dim: int, counts: Sequence[int] | None
    ) -> None:
        """`counts` are the rows of each shard, None where only the shards themselves tell."""
        self.root = root
        self.storage = storage
        self.dim = dim
        self._filesystem = filesystem
        self._paths = [f"{root}/{name}" for name in names]
        self._counts = counts
        self._forget_process()

    def _forget_process(self) -> None:
        self._opened_in = os.getpid()
        self._processes: dict[int, Process] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_processes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_process()

    @property
    def process(self) -> Process:
        """What this process holds of shards."""
        number = os.getpid()
        if number not in self._processes:
            self._processes.setdefault(number, Process([self._filesystem], THREADS, self._opened_in))
        return self._processes[number]

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        """(S + 1,) the first row of each shard, and how many rows there are."""
        counts = self._counts
        if counts is None:
            counts = [self.index(shard).num_rows for shard in range(len(self._paths))]
        return count_before(np.array(counts, np.int64))

    def open(self, shard: int) -> OpenShard:
        """A shard's file."""
        try:
            process = self.process
            return process.files.get(shard, partial(open_shard, process.filesystems[0], self._paths[shard]))
        except OSError as error:
            raise OutputError(f"{self._paths[shard]}: expected a shard that can be opened, got: {error}") from error

    def index(self, shard: int) -> ShardIndex:
        """Where a shard's rows lie."""
        return self.process.indexes.get(shard, partial(self._read_index, shard))

    def _read_index(self, shard: int) -> ShardIndex:
        file = self.open(shard)
        index = read_index(file, storage=self.storage, dim=self.dim, skips_missing=False, with_keys=True)
        if self._counts is not None and index.num_rows != self._counts[shard]:
            raise OutputError(f"{self._paths[shard]}: expected {self._counts[shard]} rows, got {index.num_rows}")
        return index

    def group(self, shard: int, group: int) -> DecodedGroup:
        """A row group of a shard, decoded."""
        load = partial(read_group, self.open(shard), self.index(shard), group)
        return self.process.groups.get((shard, group), load)

    def measure(self) -> NDArray[np.int64]:
        """The bytes of each row's value."""
        indexes = (self.index(shard) for shard in range(len(self._paths)))
        sizes = [index.find_sizes(np.arange(len(index))) for index in indexes]
        return np.concatenate([np.empty(0, np.int64), *sizes])

    def read(self, references: References) -> tuple[Embeddings, NDArray[np.int64]]:
        """The embeddings of U rows, and (R,) which of them is each reference's; OutputError where one is not there."""
        located, inverse = self._locate(references)
        values = torch.empty(int(located.tokens.sum()), self.dim, dtype=working_dtype(self.storage))
        found = Embeddings.from_lengths(values, located.tokens.tolist())
        buffers = _make_buffers(located)

        def finish(places: NDArray[np.int64]) -> None:
            for place in places.tolist():
                shard, file_row = int(located.shards[place]), int(located.file_rows[place])
                self._decode(buffers[place], found[place], name_row(self._paths[shard], file_row))

        fetch(Fetching(shards=self, located=located, buffers=buffers, finish=finish), np.arange(len(buffers)))
        return found, inverse

    def read_values(self, references: References) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
        """The same as they are stored: the bytes of U rows, and (R,) which of them is each reference's."""
        located, inverse = self._locate(references)
        buffers = _make_buffers(located)
        fetch(Fetching(shards=self, located=located, buffers=buffers, finish=lambda _: None), np.arange(len(buffers)))
        return buffers, inverse

    def _locate(self, references: References) -> tuple[Located, NDArray[np.int64]]:
        references.check_range(np.full(len(references.rows), self._offsets[-1]))
        numbers, inverse = np.unique(references.rows, return_inverse=True)
        parts = split_rows(self._offsets, numbers)
        located = locate(len(numbers), ((*part, self.index(part[0])) for part in parts))
        references.check_found(located.take(inverse))
        return located, inverse

    def _decode(self, data: NDArray[np.uint8], out: torch.Tensor, name: str) -> None:
        try:
            decode_into(data, self.storage, out)
        except OutputError as error:
            raise OutputError(f"{name}: {error}") from error


def _make_buffers(located: Located) -> list[NDArray[np.uint8]]:
    return [np.empty(size, np.uint8) for size in located.sizes.tolist()]


def fill_references(
    path: str, first: int, table: pa.Table, embeddings: Embeddings, shared: SharedRows | None
) -> Embeddings:
    """The embeddings of a table's rows with those that they refer to, of a shard's rows from `first` on.

    `table` has the columns of `name_referring`. OutputError where what a row refers to is not
    there.
    """
    found = find_references(path, first, table, shared)
    if found is None:
        return embeddings
    referring, references, rows_there = found
    values, inverse = rows_there.read(references)
    return _merge(embeddings, referring, values, torch.from_numpy(inverse))


def find_references(
    path: str, first: int, table: pa.Table, shared: SharedRows | None
) -> tuple[NDArray[np.int64], References, SharedRows] | None:
    """Which of a table's rows refer to others, to what, and where that lies; None where none does."""
    if SHARED_ROW.name not in table.column_names or table[SHARED_ROW.name].null_count == len(table):
        return None
    if KEY.name not in table.column_names:
        raise OutputError(f"{path}: no column {KEY.name!r}, by which rows and what they refer to are compared")
    rows = table[SHARED_ROW.name].fill_null(NOT_SHARED).to_numpy()
    referring = np.flatnonzero(rows != NOT_SHARED)
    if shared is None:
        raise OutputError(
            f"{name_row(path, first + int(referring[0]))}: expected its embedding as row {rows[referring[0]]} of the "
            f"finished {SHARED}/ of its output, got none; read the shard where its output lies"
        )
    references = References(
        rows=rows[referring],
        tokens=table[TOKENS].to_numpy()[referring].astype(np.int64),
        keys=read_content_keys(table)[referring],
        name=lambda row: name_row(path, first + int(referring[row])),
        where=lambda _: shared.root,
    )
    return referring, references, shared


def _merge(own: Embeddings, referring: NDArray[np.int64], found: Embeddings, inverse: torch.Tensor) -> Embeddings:
    """Embeddings in which rows that have no tokens of their own have those of others."""
    places = torch.from_numpy(referring)
    lengths = own.lengths.clone()
    lengths[places] = found.lengths[inverse]
    merged = Embeddings.from_lengths(own.values.new_empty(int(lengths.sum()), own.dim), lengths)
    is_own = torch.ones(len(lengths), dtype=torch.bool)
    is_own[places] = False
    merged.values[is_own.repeat_interleave(lengths)] = own.values[int(own.offsets[0]) : int(own.offsets[-1])]
    for place, other in zip(referring.tolist(), inverse.tolist(), strict=True):
        merged[place].copy_(found[other])
    return merged
