"""The values of many rows of many shards at once, each into a buffer of its own: by byte range, or by row group.

B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from t5enc.shards.byte_ranges import Wanted, cut_runs, read_run
from t5enc.shards.files import OpenShard
from t5enc.shards.index import ShardIndex
from t5enc.shards.located import Located
from t5enc.shards.process import Process
from t5enc.shards.row_groups import DecodedGroup, copy_rows


class Shards(Protocol):
    """Shards by number, and what this process holds of them."""

    @property
    def process(self) -> Process:
        """What this process holds."""

    def open(self, shard: int) -> OpenShard:
        """A shard's file."""

    def index(self, shard: int) -> ShardIndex:
        """Where a shard's rows lie."""

    def group(self, shard: int, group: int) -> DecodedGroup:
        """A row group of a shard, decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """B rows on their way into `buffers`; `finish` is called with the places of those that are there."""

    shards: Shards
    located: Located
    buffers: Sequence[NDArray[np.uint8]]
    finish: Callable[[NDArray[np.int64]], None]


def fetch(fetching: Fetching, places: NDArray[np.int64]) -> None:
    """The values of the rows at these places, in as many threads as pay; OutputError where they cannot be read."""
    is_plain = fetching.located.is_plain[places]
    tasks = [*_share_ranges(fetching, places[is_plain]), *_share_groups(fetching, places[~is_plain])]
    fetching.shards.process.run(tasks)


def _share_ranges(fetching: Fetching, places: NDArray[np.int64]) -> Iterator[Callable[[], None]]:
    """The rows of these places by byte range, cut for the threads."""
    located = fetching.located
    wanted = Wanted(
        places=places, shards=located.shards[places], starts=located.starts[places], sizes=located.sizes[places]
    )
    ordered, bounds = cut_runs(wanted)
    for first, last in _share_out(ordered.sizes, bounds, fetching.shards.process):
        yield partial(_read_ranges, fetching, ordered, bounds[first : last + 1])


def _share_out(sizes: NDArray[np.int64], bounds: NDArray[np.int64], process: Process) -> Iterator[tuple[int, int]]:
    """Stretches of runs of about as many bytes each, one a thread at most."""
    runs = len(bounds) - 1
    if not runs:
        return
    before = np.concatenate([[0], np.cumsum(sizes)])[bounds]
    shares = min(process.threads, runs, 1 + int(before[-1]) // process.share_bytes)
    cuts = np.searchsorted(before, np.linspace(0, before[-1], shares + 1)[1:-1])
    edges = np.unique([0, *cuts.tolist(), runs]).tolist()
    yield from pairwise(edges)


def _read_ranges(fetching: Fetching, ordered: Wanted, bounds: NDArray[np.int64]) -> None:
    """Some stretches of rows; those that are not where they should be by their row groups."""
    shards = fetching.shards
    for first, last in pairwise(bounds.tolist()):
        shard, places = int(ordered.shards[first]), ordered.places[first:last]
        buffers = [fetching.buffers[place] for place in places.tolist()]
        index = shards.index(shard)
        is_right = read_run(shards.open(shard), index.stamp, int(ordered.starts[first]), buffers)
        fetching.finish(places[is_right])
        if not is_right.all():
            index.is_plain[fetching.located.groups[places[~is_right]]] = False
            for read in _share_groups(fetching, places[~is_right]):
                read()


def _share_groups(fetching: Fetching, places: NDArray[np.int64]) -> Iterator[Callable[[], None]]:
    """The rows of these places by row group, a task each."""
    if not len(places):
        return
    located = fetching.located
    keys = np.stack([located.shards[places], located.groups[places]], axis=1)
    for shard, group in np.unique(keys, axis=0).tolist():
        yield partial(_read_rows, fetching, shard, group, places[(keys == (shard, group)).all(axis=1)])


def _read_rows(fetching: Fetching, shard: int, group: int, places: NDArray[np.int64]) -> None:
    decoded = fetching.shards.group(shard, group)
    file_rows = fetching.located.file_rows[places].tolist()
    copy_rows(fetching.shards.open(shard), decoded, file_rows, [fetching.buffers[place] for place in places.tolist()])
    fetching.finish(places)
