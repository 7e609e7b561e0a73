"""Rows by byte range: those that are neighbours in a file are read at one go, each after a check of its length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t5enc.errors import OutputError
from t5enc.shards.files import OpenShard, Stamp, check_stamp
from t5enc.shards.index import LENGTH_BYTES

# Bytes that are read at one go, unless a row alone has more.
RUN_BYTES = 4 << 20
# A row takes two buffers of the 1024 that a call of the system takes.
RUN_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Rows of one batch, W of them: which shard each is of, where in it its length stands, and its bytes.

    `places` are those in the batch.
    """

    places: NDArray[np.int64]
    shards: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def take(self, chosen: NDArray[np.int64]) -> Wanted:
        """Some of them, in this order."""
        return Wanted(
            places=self.places[chosen],
            shards=self.shards[chosen],
            starts=self.starts[chosen],
            sizes=self.sizes[chosen],
        )


def cut_runs(wanted: Wanted) -> tuple[Wanted, NDArray[np.int64]]:
    """The rows as they lie in their files, and (runs + 1,) where each stretch that is read at one go begins."""
    count = len(wanted.places)
    ordered = wanted.take(np.lexsort((wanted.starts, wanted.shards)))
    ends = ordered.starts + LENGTH_BYTES + ordered.sizes
    is_next = (ordered.shards[1:] == ordered.shards[:-1]) & (ordered.starts[1:] == ends[:-1])
    bounds = np.concatenate([[0], np.flatnonzero(~is_next) + 1, [count]]) if count else np.zeros(1, np.int64)
    return ordered, np.array([0, *_cut_long(bounds, ordered.sizes)], np.int64)


def _cut_long(bounds: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[int]:
    """The ends of stretches, those of too many bytes or rows in several parts."""
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if last - first > 1:
            room = RUN_BYTES
            start = first
            for place in range(first, last):
                size = int(sizes[place]) + LENGTH_BYTES
                if place > start and (size > room or place - start >= RUN_ROWS):
                    yield place
                    start, room = place, RUN_BYTES
                room -= size
        yield last


def read_run(shard: OpenShard, stamp: Stamp, offset: int, buffers: Sequence[NDArray[np.uint8]]) -> NDArray[np.bool_]:
    """Fill the buffers of rows that are neighbours from a place on; which of them had their length before them.

    OutputError where the file ends before, cannot be read, or is no longer the one of the stamp.
    """
    lengths = np.zeros(len(buffers), "<u4")
    prefixes = lengths.view(np.uint8).reshape(-1, LENGTH_BYTES)
    parts = [part for pair in zip(prefixes, buffers, strict=True) for part in pair if len(part)]
    size = sum(map(len, parts))
    try:
        got = shard.read_into(parts, offset)
    except OSError as error:
        raise OutputError(f"{shard.path}: cannot be read at byte {offset}: {error}") from error
    check_stamp(shard, stamp)
    if got < size:
        raise OutputError(f"{shard.path}: expected {size} bytes at byte {offset}, got {got}: the file is torn")
    expected = np.fromiter(map(len, buffers), np.int64, len(buffers))
    found: NDArray[np.bool_] = lengths == expected
    return found
