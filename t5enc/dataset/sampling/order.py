"""The order of an epoch: a permutation of N places that is computed where it is asked for, and kept nowhere.

The permutation is a Feistel network over pairs (left, right) of whole numbers, whose rounds add a mixed number of the
one to the other, with cycle walking: what falls outside of 0 to N - 1 goes through again until it is inside (Black and
Rogaway, Ciphers with arbitrary finite domains, 2002, their methods 2 and 3). The sides are ceil(sqrt(N)) and
ceil(N / that), so that hardly anything falls outside. No order may ever change between releases: a resumed run
depends on it. Tests hold the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from t5enc.dataset.sampling.keyed import Words, derive_key, mix

# Rounds of the network. Four make it a good permutation of a large domain (Luby and Rackoff); tiny ones want more.
ROUNDS = 8
# Places below this many are shuffled often, and their sides have two or three values: more rounds cost nothing there.
TINY, TINY_ROUNDS = 256, 24
LARGEST = 1 << 62


class Order(Protocol):
    """An order of N rows."""

    def take(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows (K,) that stand at these places (K,)."""


@dataclass(frozen=True, slots=True)
class SequentialOrder:
    """Rows as they lie."""

    def take(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows (K,) that stand at these places (K,): the same numbers."""
        return places


@dataclass(frozen=True, slots=True)
class RowOrder:
    """All of `rows` rows mixed by a key."""

    rows: int
    key: int

    def take(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows (K,) that stand at these places (K,)."""
        return permute(places, self.rows, self.key)


class GroupOrder:
    """Whole groups of rows mixed, and then the rows within each window of so many groups.

    `offsets` (G + 1,) is where each group's rows begin. It keeps 8 bytes a group beside them.
    """

    def __init__(self, offsets: NDArray[np.int64], key: int, window: int) -> None:
        count = len(offsets) - 1
        self._offsets = offsets
        self._key = key
        self._window = window
        self._groups = permute(np.arange(count, dtype=np.int64), count, derive_key(key))
        ends = np.cumsum(self._count_rows(self._groups))
        # Where each window begins, and the last one ends.
        self._starts = np.concatenate([[0], ends[window - 1 :: window], ends[-1:]]).astype(np.int64)

    def take(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows (K,) that stand at these places (K,)."""
        rows = np.empty_like(places)
        windows = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(windows).tolist():
            here = windows == number
            rows[here] = self._take_within(number, places[here] - self._starts[number])
        return rows

    def _take_within(self, number: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (K,) of a window by their places (K,) in it."""
        chosen = self._groups[number * self._window : (number + 1) * self._window]
        ends = np.cumsum(self._count_rows(chosen))
        mixed = permute(places, int(ends[-1]), derive_key(self._key, number))
        which = np.searchsorted(ends, mixed, side="right")
        taken: NDArray[np.int64] = self._offsets[chosen + 1][which] - (ends[which] - mixed)
        return taken

    def _count_rows(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self._offsets[groups + 1] - self._offsets[groups]
        return rows


def permute(places: NDArray[np.int64], count: int, key: int) -> NDArray[np.int64]:
    """What stands at these places (K,) of the numbers 0 to `count` - 1 in the key's order.

    Time and memory are those of K places: nothing depends on `count`, which is at most 2**62.
    """
    assert 0 <= count <= LARGEST
    if not len(places):
        return places.copy()
    sides = find_sides(count)
    keys = [derive_key(key, number) for number in range(TINY_ROUNDS if count < TINY else ROUNDS)]
    found = _run_rounds(places.astype(np.uint64), sides, keys)
    outside = np.flatnonzero(found >= np.uint64(count))
    while len(outside):
        walked = _run_rounds(found[outside], sides, keys)
        found[outside] = walked
        outside = outside[walked >= np.uint64(count)]
    return found.astype(np.int64)


def find_sides(count: int) -> tuple[int, int]:
    """How many values left and right have: the smallest near-square that holds `count` pairs."""
    left = max(1, math.isqrt(max(count, 1) - 1) + 1)
    return left, max(1, -(-count // left))


def _run_rounds(places: Words, sides: tuple[int, int], keys: list[int]) -> Words:
    """Places (K,) once through the network."""
    moduli = [np.uint64(side) for side in sides]
    halves = [places % moduli[0], places // moduli[0]]
    for number, key in enumerate(keys):
        changed = number % 2
        mixed = mix(halves[1 - changed] + np.uint64(key)) >> np.uint64(32)
        # A side has at most 2**31 values: the high half of a product of 32 bits is even over them.
        halves[changed] = (halves[changed] + (mixed * moduli[changed] >> np.uint64(32))) % moduli[changed]
    return halves[1] * moduli[0] + halves[0]
