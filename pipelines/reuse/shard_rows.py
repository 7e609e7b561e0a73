"""Rows of one shard by their places, each after a check that it is what the index took it for.

R rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from t5enc.shards.bounded import Bounded
from t5enc.shards.byte_ranges import Wanted, cut_runs, read_run
from t5enc.shards.files import OpenShard
from t5enc.shards.index import ShardIndex
from t5enc.shards.memory import BatchMemory
from t5enc.shards.process import Process
from t5enc.shards.row_groups import DecodedGroup, copy_rows, read_group


def read_values(
    shard: OpenShard,
    index: ShardIndex,
    process: Process,
    number: int,
    places: NDArray[np.int64],
    keys: NDArray[np.uint8],
    tokens: NDArray[np.int64],
) -> list[NDArray[np.uint8] | None]:
    """The bytes of rows at R places of a shard, None for one with another key or another number of tokens.

    `process` holds decoded row groups by (`number` of the shard, group), and memory that others have read into before;
    the rows lie in it as long as somebody holds one of them. OutputError where the shard is damaged or is
    another now.
    """
    is_right = check_rows(index, places, keys, tokens)
    chosen = np.flatnonzero(is_right)
    find_group = partial(_find_group, shard, index, process.groups, number)
    buffers = _read(shard, index, find_group, process.memory, places[chosen])
    values: list[NDArray[np.uint8] | None] = [None] * len(places)
    for place, buffer in zip(chosen.tolist(), buffers, strict=True):
        values[place] = buffer
    return values


def drop_rotten(index: ShardIndex, places: NDArray[np.int64], values: list[NDArray[np.uint8] | None]) -> list[int]:
    """The places whose values are not those that were written, as far as the footer tells; these become None."""
    if index.checksums is None:
        return []
    rotten = []
    for number, (value, checksum) in enumerate(zip(values, index.checksums[places].tolist(), strict=True)):
        if value is not None and zlib.crc32(value.data) != checksum:
            rotten.append(int(places[number]))
            values[number] = None
    return rotten


def check_rows(
    index: ShardIndex, places: NDArray[np.int64], keys: NDArray[np.uint8], tokens: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which rows are those that are wanted, by what the shard itself says."""
    assert index.content_keys is not None
    is_right = places < len(index)
    here = places[is_right]
    same_keys = (index.content_keys[here] == keys[is_right]).all(axis=1)
    is_right[is_right] = same_keys & (index.tokens[here] == tokens[is_right]) & index.are_there(here)
    return is_right


def _find_group(
    shard: OpenShard, index: ShardIndex, groups: Bounded[DecodedGroup], number: int, group: int
) -> DecodedGroup:
    return groups.get((number, group), partial(read_group, shard, index, group))


def _read(
    shard: OpenShard,
    index: ShardIndex,
    find_group: partial[DecodedGroup],
    memory: BatchMemory,
    places: NDArray[np.int64],
) -> list[NDArray[np.uint8]]:
    """Bytes of rows, by range where they lie plainly; of the others whole row groups are decoded."""
    sizes = index.find_sizes(places)
    ends = np.cumsum(sizes)
    block = memory.take(int(sizes.sum()))
    buffers = [block[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]
    of_groups = index.find_groups(places)
    is_plain = index.is_plain[of_groups]
    is_read = _read_ranges(shard, index, np.flatnonzero(is_plain), places, sizes, buffers)
    for group in np.unique(of_groups[~is_read]).tolist():
        here = np.flatnonzero(~is_read & (of_groups == group)).tolist()
        copy_rows(shard, find_group(group), places[here].tolist(), [buffers[row] for row in here])
    return buffers


def _read_ranges(
    shard: OpenShard,
    index: ShardIndex,
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    sizes: NDArray[np.int64],
    buffers: Sequence[NDArray[np.uint8]],
) -> NDArray[np.bool_]:
    """Which rows were where their lengths say so; neighbours in the file are read at one go."""
    is_read = np.zeros(len(places), bool)
    starts = index.find_starts(places[rows])
    wanted = Wanted(places=rows, shards=np.zeros(len(rows), np.int64), starts=starts, sizes=sizes[rows])
    ordered, bounds = cut_runs(wanted)
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        run = ordered.places[first:last]
        offset = int(ordered.starts[first])
        is_read[run] = read_run(shard, index.stamp, offset, [buffers[row] for row in run.tolist()])
    return is_read
