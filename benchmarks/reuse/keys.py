"""An index of very many keys: how long it takes to build, what it takes, and how fast keys are found."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.reuse.index import KeyIndex, build_index, choose_bits, make_entries

SHARD_ROWS = 8192
LOOKED_UP = 1000


def measure_index(folder: Path, count: int) -> dict[str, Any]:
    """Build an index of so many keys, and look some up. Memory is what building added to this process's most."""
    before = peak_memory()
    started = time.perf_counter()
    built = folder / "index"
    built.mkdir()
    shards = -(-count // SHARD_ROWS)
    build_index(built, draw_keys(count), np.full(shards, SHARD_ROWS), choose_bits(count))
    seconds = time.perf_counter() - started
    memory = peak_memory() - before
    rate = measure_lookups(KeyIndex(built), count)
    size = sum(path.stat().st_size for path in built.iterdir())
    return {"keys": count, "seconds": seconds, "bytes": size, "bytes_peak": memory, "lookups_a_second": rate}


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def draw_keys(count: int) -> Iterator[NDArray[np.uint64]]:
    """The entries of shards, as footers give them."""
    for shard in range(-(-count // SHARD_ROWS)):
        rows = min(SHARD_ROWS, count - shard * SHARD_ROWS)
        yield make_entries(draw_shard(shard)[:rows], shard, np.arange(rows))


def draw_shard(shard: int) -> NDArray[np.uint8]:
    """The same keys every time."""
    return np.frombuffer(np.random.default_rng(shard).bytes(SHARD_ROWS * 16), np.uint8).reshape(-1, 16)


def measure_lookups(index: KeyIndex, count: int) -> float:
    """Keys a second of one core, of which every second one is there, in the place where it was put."""
    random = np.random.default_rng([0, 1])  # none of a shard's
    seconds = 0.0
    rounds = 200
    for _ in range(rounds):
        shard = int(random.integers(max(1, count // SHARD_ROWS)))
        row = int(random.integers(min(SHARD_ROWS, count) - LOOKED_UP // 2))
        there = draw_shard(shard)[row : row + LOOKED_UP // 2]
        keys = np.concatenate([there, np.frombuffer(random.bytes(len(there) * 16), np.uint8).reshape(-1, 16)])
        started = time.perf_counter()
        shards, places = index.find(keys)
        seconds += time.perf_counter() - started
        assert (shards[: len(there)] == shard).all()
        assert (places[: len(there)] == row + np.arange(len(there))).all()
        assert (shards[len(there) :] == -1).all()
    return rounds * LOOKED_UP / seconds
