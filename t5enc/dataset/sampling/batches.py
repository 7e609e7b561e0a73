"""How an epoch is cut into batches: by count, by count within windows sorted by length, or by padded tokens.

An epoch is cut into windows of its order first, and each window into batches by itself. So the sequence of batches is
a function of the order and the lengths alone, any place in it is a window and a number of batches in it, and going on
from there costs one window, however far the epoch is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from t5enc.dataset.sampling.keyed import derive_key
from t5enc.dataset.sampling.order import permute
from t5enc.errors import ConfigError

Places: TypeAlias = NDArray[np.int64]
# Tokens (K,) of what stands at the places `start` to `stop` - 1 of the order.
Measure: TypeAlias = Callable[[int, int], NDArray[np.int64]]
# Rows of a window of batches by tokens, where nobody says how many.
TOKEN_WINDOW = 8192
# Windows whose batches are kept: all ranks' batches of a step often lie in two.
KEPT_WINDOWS = 4


class Place(NamedTuple):
    """Where an epoch stands: so many batches of this window have been given, and all windows before it."""

    window: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How batches are cut: `batch_size` rows each, or at most `batch_tokens` padded tokens.

    `bucket_rows` of the order at a time are sorted by length; None: not sorted for `batch_size`, 8192 rows for
    `batch_tokens`. `drop_last` leaves out a last batch that is not full, where they are cut by rows.
    """

    batch_size: int | None = None
    batch_tokens: int | None = None
    bucket_rows: int | None = None
    drop_last: bool = False

    def __post_init__(self) -> None:
        if (self.batch_size is None) == (self.batch_tokens is None):
            raise ConfigError(
                f"batch_size and batch_tokens: expected one of them, got {self.batch_size} and {self.batch_tokens}"
            )
        for name in ("batch_size", "batch_tokens", "bucket_rows"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if self.batch_size and self.bucket_rows and self.bucket_rows % self.batch_size:
            raise ConfigError(
                f"bucket_rows: expected a multiple of batch_size ({self.batch_size}), got {self.bucket_rows}"
            )

    @property
    def window_rows(self) -> int:
        """Rows of a window."""
        return self.bucket_rows or self.batch_size or TOKEN_WINDOW


class Batches(Protocol):
    """The batches of one epoch over N samples, as places in its order."""

    def skip(self, place: Place, count: int) -> Place:
        """Where it stands after `count` more batches, or the end."""

    def take(self, place: Place) -> Places:
        """The places of the batch that comes next; none at the end."""

    def count(self) -> int:
        """The batches of the whole epoch."""

    @property
    def end(self) -> Place:
        """Where it stands after all of them."""


def cut_batches(samples: int, options: BatchOptions, measure: Measure, key: int) -> Batches:
    """The batches of an epoch over so many samples; `key` mixes those of a window that is sorted by length."""
    if options.batch_tokens is not None:
        return TokenBatches(samples, options.batch_tokens, options.window_rows, measure, key)
    return CountBatches(samples, options, measure, key)


class CountBatches:
    """Batches of as many rows each, of which any is found by arithmetic."""

    def __init__(self, samples: int, options: BatchOptions, measure: Measure, key: int) -> None:
        self._size = options.batch_size or 1
        self._samples = samples - samples % self._size if options.drop_last else samples
        self._window_rows = options.window_rows
        self._is_sorted = options.bucket_rows is not None
        self._measure = measure
        self._key = key
        self._kept: Kept = OrderedDict()
        self.end = Place(-(-self._samples // self._window_rows), 0)

    def skip(self, place: Place, count: int) -> Place:
        """Where it stands after `count` more batches, or the end."""
        each = self._window_rows // self._size
        number = place.window * each + place.batches + count
        return Place(*divmod(number, each)) if number < self.count() else self.end

    def take(self, place: Place) -> Places:
        """The places of the batch that comes next; none at the end."""
        if place >= self.end:
            return np.zeros(0, np.int64)
        start = place.window * self._window_rows
        if self._is_sorted:
            return keep_window(self._kept, place.window, self._sort_window)[place.batches]
        return np.arange(start, min(start + self._size, self._samples), dtype=np.int64)

    def count(self) -> int:
        """The batches of the whole epoch."""
        return -(-self._samples // self._size)

    def _sort_window(self, window: int) -> list[Places]:
        """The batches of a window, each of rows of nearly one length, in a mixed order.

        A batch that is not full stays the last one.
        """
        start = window * self._window_rows
        stop = min(start + self._window_rows, self._samples)
        places = start + np.argsort(self._measure(start, stop), kind="stable")
        batches = [places[first : first + self._size] for first in range(0, len(places), self._size)]
        full = (stop - start) // self._size
        return mix_batches(batches[:full], derive_key(self._key, window)) + batches[full:]


class TokenBatches:
    """Batches of at most so many padded tokens; how many there are is known window by window."""

    def __init__(self, samples: int, tokens: int, window_rows: int, measure: Measure, key: int) -> None:
        self._samples = samples
        self._tokens = tokens
        self._window_rows = window_rows
        self._measure = measure
        self._key = key
        self._kept: Kept = OrderedDict()
        self._count: int | None = None
        self.end = Place(-(-samples // window_rows), 0)

    def skip(self, place: Place, count: int) -> Place:
        """Where it stands after `count` more batches, or the end."""
        window, batches = place.window, place.batches + count
        while window < self.end.window and batches >= (size := len(self._find(window))):
            window, batches = window + 1, batches - size
        return Place(window, batches) if window < self.end.window else self.end

    def take(self, place: Place) -> Places:
        """The places of the batch that comes next; none at the end."""
        return self._find(place.window)[place.batches] if place < self.end else np.zeros(0, np.int64)

    def count(self) -> int:
        """The batches of the whole epoch, for which the lengths of all rows are looked at once."""
        if self._count is None:
            self._count = sum(len(self._cut_window(window)) for window in range(self.end.window))
        return self._count

    def _find(self, window: int) -> list[Places]:
        return keep_window(self._kept, window, self._cut_window)

    def _cut_window(self, window: int) -> list[Places]:
        """The batches of a window, each of rows of nearly one length, in a mixed order."""
        start = window * self._window_rows
        lengths = self._measure(start, min(start + self._window_rows, self._samples))
        ranked = np.argsort(lengths, kind="stable")
        cuts = find_cuts(np.maximum(lengths[ranked], 1), self._tokens)
        batches = [start + part for part in np.split(ranked, cuts)]
        return mix_batches(batches, derive_key(self._key, window))


Kept: TypeAlias = "OrderedDict[int, list[Places]]"


def keep_window(kept: Kept, window: int, cut: Callable[[int], list[Places]]) -> list[Places]:
    """The batches of a window, cut once while it is one of the last few that were asked for."""
    if window not in kept:
        kept[window] = cut(window)
        if len(kept) > KEPT_WINDOWS:
            kept.popitem(last=False)
    return kept[window]


def find_cuts(lengths: NDArray[np.int64], tokens: int) -> list[int]:
    """Where lengths (K,), the shortest first, are cut so that rows times the longest is at most `tokens`.

    A row that is longer than that is a batch of its own.
    """
    cuts: list[int] = []
    start = 0
    while start < len(lengths):
        # Each further row raises the product, so the first one that no longer fits is found by halving.
        counts = np.arange(1, min(len(lengths) - start, max(1, tokens // int(lengths[start]))) + 1)
        exceeds = counts * lengths[start : start + len(counts)] > tokens
        start += max(1, int(np.searchsorted(exceeds, True)))
        cuts.append(start)
    return cuts[:-1]


def mix_batches(batches: list[Places], key: int) -> list[Places]:
    """The same batches in the key's order."""
    order = permute(np.arange(len(batches), dtype=np.int64), len(batches), key)
    return [batches[place] for place in order.tolist()]
