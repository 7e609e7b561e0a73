"""Where rows lie: what the indexes of their shards say of them, side by side.

B rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5enc.shards.index import ShardIndex
from t5enc.storage import KEY, NOT_SHARED

# Of some rows: their shard, which of them they are, their places there, and the shard's index.
Part = tuple[int, NDArray[np.int64], NDArray[np.int64], ShardIndex]


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """B rows: their shards, places among the rows there that count, and what the shards' indexes say of them.

    `shared_rows` are those that they refer to, NOT_SHARED for others, and `keys` (B, 16) the content keys of these.
    `is_there` are rows with an embedding of their own.
    """

    shards: NDArray[np.int64]
    places: NDArray[np.int64]
    file_rows: NDArray[np.int64]
    groups: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    tokens: NDArray[np.int64]
    shared_rows: NDArray[np.int64]
    keys: NDArray[np.uint8]
    is_there: NDArray[np.bool_]
    is_plain: NDArray[np.bool_]

    def take(self, chosen: NDArray[np.int64]) -> Located:
        """Some of them, in this order."""
        arrays: dict[str, Any] = {name: getattr(self, name)[chosen] for name in (*INTEGERS, *BOOLEANS, "keys")}
        return Located(**arrays)

    def replace(self, chosen: NDArray[np.int64], others: Located) -> None:
        """Have some rows lie where others do."""
        for name in (*INTEGERS, *BOOLEANS):
            getattr(self, name)[chosen] = getattr(others, name)


INTEGERS = ("shards", "places", "file_rows", "groups", "starts", "sizes", "tokens", "shared_rows")
BOOLEANS = ("is_there", "is_plain")


def locate(count: int, parts: Iterable[Part]) -> Located:
    """Where so many rows lie, which are those of all parts."""
    arrays: dict[str, Any] = {name: np.zeros(count, np.int64) for name in INTEGERS}
    arrays |= {name: np.zeros(count, np.bool_) for name in BOOLEANS}
    found = Located(keys=np.zeros((count, KEY.type.byte_width), np.uint8), **arrays)
    for shard, chosen, places, index in parts:
        file_rows = index.find_file_rows(places)
        groups = index.find_groups(file_rows)
        found.shards[chosen], found.places[chosen] = shard, places
        found.file_rows[chosen], found.groups[chosen] = file_rows, groups
        found.starts[chosen], found.sizes[chosen] = index.find_starts(places), index.find_sizes(places)
        found.is_there[chosen] = index.are_there(places)
        found.tokens[chosen], found.is_plain[chosen] = index.tokens[places], index.is_plain[groups]
        found.shared_rows[chosen] = index.find_shared_rows(places)
        if index.content_keys is not None:
            found.keys[chosen] = index.content_keys[places]
    return found


def split_rows(
    offsets: NDArray[np.int64], numbers: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Each shard of rows by number, which of them are its own (as places in `numbers`), and their places there.

    `offsets` (S + 1,) are the first row of each shard, and how many rows all have.
    """
    shards = np.searchsorted(offsets, numbers, "right") - 1
    places = numbers - offsets[shards]
    order = np.argsort(shards, kind="stable")
    bounds = np.flatnonzero(np.diff(shards[order])) + 1
    for chosen in np.split(order, bounds) if len(order) else ():
        yield int(shards[chosen[0]]), chosen, places[chosen]


def find_referring(located: Located) -> NDArray[np.int64]:
    """Which of the rows refer to others."""
    return np.flatnonzero(located.shared_rows != NOT_SHARED)


def count_before(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(S + 1,) the rows before each shard, and those of all."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
