"""Lay texts end to end in streams of at most a budget of tokens. Pure Python: lengths in, indices out."""

from __future__ import annotations

from collections.abc import Sequence

from t5enc.errors import ConfigError

SMALLEST_RUNG = 16
# The widest step between the row counts of streams without a static shape.
COARSEST_STEP = 128


def pack_sorted(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Streams of neighbours in length, so that equal lengths stand side by side; nothing is padded.

    A text longer than the budget is a stream of its own.
    """
    streams: list[list[int]] = []
    used = budget
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if used + lengths[index] > budget or not streams:
            streams.append([])
            used = 0
        streams[-1].append(index)
        used += lengths[index]
    return streams


def pack_full(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Streams as full as first-fit decreasing makes them, for kernels of static shape.

    First fit in O(N log N): a tree over the streams finds the first that has a text's tokens free.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    free = FreeTokenTree(max(len(order), 1), budget)
    streams: list[list[int]] = []
    for index in order:
        place = free.take(lengths[index])
        if place == len(streams):
            streams.append([])
        streams[place].append(index)
    return streams


class FreeTokenTree:
    """Finds the first stream with enough tokens free for a text: a binary tree of maxima over free tokens."""

    def __init__(self, count: int, budget: int) -> None:
        self.leaves = 1 << (count - 1).bit_length()
        self.budget = budget
        self.free = [budget] * (2 * self.leaves)

    def take(self, length: int) -> int:
        """Take `length` tokens of the first stream that has them, an untouched one if need be."""
        wanted = min(length, self.budget)
        node = 1
        while node < self.leaves:
            node = 2 * node if self.free[2 * node] >= wanted else 2 * node + 1
        place = node - self.leaves
        self.free[node] -= wanted
        while node > 1:
            node //= 2
            self.free[node] = max(self.free[2 * node], self.free[2 * node + 1])
        return place


def make_rungs(budget: int) -> tuple[int, ...]:
    """The static stream lengths to compile: the budget and its halves down to the smallest."""
    if budget < SMALLEST_RUNG:
        raise ConfigError(f"token_budget: expected at least {SMALLEST_RUNG}, got {budget}")
    rungs = [budget]
    while rungs[-1] // 2 >= SMALLEST_RUNG:
        rungs.append(rungs[-1] // 2)
    return tuple(reversed(rungs))


def pick_rung(length: int, rungs: Sequence[int]) -> int:
    """The smallest rung that holds `length` tokens; beyond the largest, a multiple of it."""
    for rung in rungs:
        if length <= rung:
            return rung
    return -(-length // rungs[-1]) * rungs[-1]


def round_rows(length: int) -> int:
    """Rows of a stream that holds `length` tokens and is not compiled: four sizes an octave, 128 apart at most.

    Any number would do, but oneDNN keeps megabytes of kernels for every number that it has met.
    """
    step = min(COARSEST_STEP, max(SMALLEST_RUNG, 1 << max(0, (length - 1).bit_length() - 3)))
    return -(-length // step) * step


def round_rung(length: int) -> int:
    """The compiled stream length for `length` tokens of a batch of any shape: four rungs an octave."""
    step = max(SMALLEST_RUNG, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step
