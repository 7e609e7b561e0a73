"""Rows of earlier outputs into a unit: looked up by content key, read by byte range, checked, and stored anew.

N captions of a piece of a unit. The index says where a row should be; its shard's own footer has the last word. What
cannot be had, for whatever reason, is left out, and computed.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import torch
from numpy.typing import NDArray

from pipelines.reuse.building import open_key_index
from pipelines.reuse.earlier import EarlierOutput
from pipelines.reuse.index import NOT_THERE, KeyIndex
from pipelines.reuse.rests import Rests
from pipelines.reuse.shard_rows import check_rows, drop_rotten, read_values
from t5enc.errors import OutputError
from t5enc.shards.files import OpenShard, open_shard
from t5enc.shards.index import ShardIndex, read_index
from t5enc.shards.process import Process
from t5enc.storage import NOT_SHARED, StoredRows, count_tokens, from_bytes, to_bytes, working_dtype

# Reads at a time; of a store, several times as many.
THREADS = 4
UNREADABLE = "not all of it can be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """(N, 16) keys of captions and (N,) tokens of their embeddings; `hints` are (shards, places) of each output.

    `shared` are those of the output to refer to, if there is one; `places` the captions that any output seems to have.
    """

    keys: NDArray[np.uint8]
    tokens: NDArray[np.int64]
    hints: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    shared: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    places: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What was had of N captions, and what went wrong with an output, by its name.

    `sources` are how many of them are from which output, and `source_tokens` the tokens of those: without what the job
    itself has computed first.
    """

    stored: StoredRows
    sources: dict[str, int]
    source_tokens: int
    troubles: dict[str, str]

    @property
    def is_there(self) -> NDArray[np.bool_]:
        """(N,) which captions need not be computed."""
        found: NDArray[np.bool_] = self.stored.shared != NOT_SHARED
        found[list(self.stored.values)] = True
        return found


class EarlierRows:
    """Earlier outputs in the order in which they are asked; what a process holds of them, it opens itself."""

    def __init__(self, outputs: Sequence[EarlierOutput], storage: str, shared: EarlierOutput | None = None) -> None:
        """`storage` is how the rows are stored anew; to those of `shared`, the job's own, its rows refer instead."""
        self.outputs = tuple(outputs)
        self.storage = storage
        self.shared = shared
        self._lock = threading.Lock()
        self._sources: list[_Source] | None = None
        self._referred: _Source | None = None

    def __reduce__(self) -> tuple[type[EarlierRows], tuple[Any, ...]]:
        return EarlierRows, (self.outputs, self.storage, self.shared)

    def __len__(self) -> int:
        return len(self.outputs) + (self.shared is not None)

    def open(self) -> list[_Source]:
        """Have their indexes, built where this machine has none; an output whose index cannot be is left out."""
        with self._lock:
            if self._sources is None:
                self._sources = [_Source(output, self.storage) for output in self.outputs]
                self._referred = None if self.shared is None else _Source(self.shared, self.storage)
            return self._sources

    def look_up(self, keys: NDArray[np.uint8], tokens: NDArray[np.int64]) -> Wanted:
        """Which of (N, 16) keys are there, but for captions without (N,) `tokens`."""
        hints = [source.look_up(keys) for source in self.open()]
        shared = None if self._referred is None else self._referred.look_up(keys)
        is_there = np.zeros(len(keys), bool)
        for shards, _ in (*hints, *([] if shared is None else [shared])):
            is_there |= shards != NOT_THERE
        places = np.flatnonzero(is_there & (tokens > 0))
        return Wanted(keys=keys, tokens=tokens, hints=hints, shared=shared, places=places)

    def copy(self, wanted: Wanted) -> Copied:
        """Refer to them where they are shared; read the others, from the first output that has them whole."""
        values: dict[int, NDArray[np.uint8]] = {}
        sources: dict[str, int] = {}
        source_tokens = 0
        troubles: dict[str, str] = {}
        shared = self._refer(wanted, troubles)
        for source, (shards, places) in zip(self.open(), wanted.hints, strict=True):
            own = wanted.places[shared[wanted.places] == NOT_SHARED]
            left = np.array([place for place in own.tolist() if place not in values], np.int64)
            left = left[shards[left] != NOT_THERE]
            found = source.copy(shards[left], places[left], wanted.keys[left], wanted.tokens[left])
            values.update((int(left[place]), value) for place, value in found.items())
            if found and not source.output.is_own:
                shown = source.output.shown
                sources[shown] = sources.get(shown, 0) + len(found)
                source_tokens += int(wanted.tokens[left[list(found)]].sum())
            if source.trouble:
                troubles[source.output.shown] = source.trouble
        stored = _store(values, shared, wanted.tokens)
        return Copied(stored=stored, sources=sources, source_tokens=source_tokens, troubles=troubles)

    def _refer(self, wanted: Wanted, troubles: dict[str, str]) -> NDArray[np.int64]:
        """(N,) rows of the shared output."""
        rows = np.full(len(wanted.keys), NOT_SHARED, np.int64)
        if self._referred is not None and wanted.shared is not None:
            chosen, (shards, places) = wanted.places, wanted.shared
            rows[chosen] = self._referred.number(
                shards[chosen], places[chosen], wanted.keys[chosen], wanted.tokens[chosen]
            )
            if self._referred.trouble:
                troubles[self._referred.output.shown] = self._referred.trouble
        return rows


def _store(values: dict[int, NDArray[np.uint8]], shared: NDArray[np.int64], tokens: NDArray[np.int64]) -> StoredRows:
    is_stored = shared != NOT_SHARED
    is_stored[list(values)] = True
    own = np.where(is_stored, tokens, 0).astype(np.int32)
    return StoredRows(tokens=own, values=values, shared=shared)


class _Source:
    """One earlier output in one process."""

    def __init__(self, output: EarlierOutput, storage: str) -> None:
        self.output = output
        self.storage = storage
        self.process = Process([output.filesystem], THREADS, os.getpid())
        self.trouble = ""
        self._rests = Rests()
        self._index = self._open_index()

    def _open_index(self) -> KeyIndex | None:
        try:
            index = open_key_index(self.output, self.process)
        except OSError as error:
            self._tell(f"no index of its keys can be made, so that nothing is reused of it: {error}")
            return None
        if index.num_unread:
            self._tell(
                f"{index.num_unread:,} of {index.num_shards:,} shards cannot be read; what they hold is computed"
            )
        return index

    def _tell(self, trouble: str) -> None:
        """Once, and kept for the report."""
        if not self.trouble:
            print(f"reuse: {self.output.shown}: {trouble}", file=sys.stderr, flush=True)
            self.trouble = trouble

    def look_up(self, keys: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shards and places in them by (N, 16) keys."""
        if self._index is None or self._rests.is_resting():
            return np.full(len(keys), NOT_THERE, np.int64), np.zeros(len(keys), np.int64)
        return self._index.find(keys)

    def number(
        self,
        shards: NDArray[np.int64],
        places: NDArray[np.int64],
        keys: NDArray[np.uint8],
        tokens: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Rows counted over the whole output, NOT_SHARED for what its shards themselves do not have there."""
        rows = np.full(len(shards), NOT_SHARED, np.int64)
        for shard in np.unique(shards[shards != NOT_THERE]).tolist():
            here = np.flatnonzero(shards == shard)
            try:
                _, index = self._open(shard)
            except (OutputError, OSError) as error:
                self._tell(f"{UNREADABLE}, and what is not is computed: {error}")
                continue
            assert self._index is not None
            chosen = here[check_rows(index, places[here], keys[here], tokens[here])]
            rows[chosen] = self._index.number(shards[chosen], places[chosen])
        return rows

    def copy(
        self,
        shards: NDArray[np.int64],
        places: NDArray[np.int64],
        keys: NDArray[np.uint8],
        tokens: NDArray[np.int64],
    ) -> dict[int, NDArray[np.uint8]]:
        """Bytes of rows, in the job's codec, by their numbers here; equal rows are read once."""
        if not len(shards):
            return {}
        order = np.lexsort((places, shards))
        bounds = [0, *(np.flatnonzero(np.diff(shards[order])) + 1).tolist(), len(order)]
        groups = [order[start:stop] for start, stop in itertools.pairwise(bounds)]
        tasks: list[Callable[[], dict[int, NDArray[np.uint8]]]] = [
            partial(self._copy_shard, int(shards[group[0]]), places[group], keys[group], tokens[group], group)
            for group in groups
        ]
        return {place: value for part in self.process.run(tasks) for place, value in part.items()}

    def _copy_shard(
        self,
        shard: int,
        places: NDArray[np.int64],
        keys: NDArray[np.uint8],
        tokens: NDArray[np.int64],
        numbers: NDArray[np.int64],
    ) -> dict[int, NDArray[np.uint8]]:
        if self._rests.is_resting(shard):
            return {}
        rows, firsts, again = np.unique(places, return_index=True, return_inverse=True)
        try:
            file, index = self._open(shard)
            values = read_values(file, index, self.process, shard, rows, keys[firsts], tokens[firsts])
            self._tell_rotten(file.path, drop_rotten(index, rows, values))
            stored = [self._convert(value, int(count)) for value, count in zip(values, tokens[firsts], strict=True)]
        except (OutputError, OSError) as error:
            self._rests.note_failure(shard, is_gone=self._is_gone(shard))
            self._tell(f"{UNREADABLE}, and what is not is computed: {error}")
            return {}
        self._rests.note_success()
        return {
            int(number): value
            for number, place in zip(numbers, again.tolist(), strict=True)
            if (value := stored[place]) is not None
        }

    def _tell_rotten(self, path: str, rows: list[int]) -> None:
        if rows:
            more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
            self._tell(f"{path}: row {rows[0]:,}{more}: other bytes than were written there; computed instead")

    def _is_gone(self, shard: int) -> bool:
        try:
            found = self.process.filesystems[0].get_file_info(self._find_path(shard))
        except OSError:
            return False
        return bool(found.type == pafs.FileType.NotFound)

    def _find_path(self, shard: int) -> str:
        return f"{self.output.root}/{self.output.shards['name'][shard].as_py()}"

    def _open(self, shard: int) -> tuple[OpenShard, ShardIndex]:
        path = self._find_path(shard)
        file = self.process.files.get(shard, partial(open_shard, self.process.filesystems[0], path))
        storage, dim = self.output.storage, self.output.dim
        load = partial(read_index, file, storage=storage, dim=dim, skips_missing=False, with_keys=True)
        return file, self.process.indexes.get(shard, load)

    def _convert(self, value: NDArray[np.uint8] | None, tokens: int) -> NDArray[np.uint8] | None:
        """A row's bytes in the job's codec; None for a row that is not there, or has other bytes than it should."""
        storage, dim = self.output.storage, self.output.dim
        if value is None or count_tokens(value, storage, dim) != tokens:
            return None
        if storage == self.storage:
            return value
        numbers = from_bytes(value, storage, dim).to(working_dtype(self.storage))
        return to_bytes(numbers, self.storage).reshape(-1) if bool(torch.isfinite(numbers).all()) else None
