"""One epoch of a data set: its order, its batches, which caption of each sample is drawn, and which are dropped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from t5enc.dataset.draws import Draw
from t5enc.dataset.sampling.batches import BatchOptions, cut_batches
from t5enc.dataset.sampling.captions import Captions, Columns, Weights, open_captions
from t5enc.dataset.sampling.keyed import derive_key, draw_uniform
from t5enc.dataset.sampling.order import GroupOrder, Order, RowOrder, SequentialOrder
from t5enc.errors import ConfigError

OrderName: TypeAlias = Literal["rows", "row_groups", "sequential"]
Rows: TypeAlias = NDArray[np.int64]
# What numbers are drawn for: those for one thing say nothing of another.
ORDER, BATCHES, CAPTIONS, DROPOUT = range(4)


class Measured(Columns, Protocol):
    """A data set of N rows, which is asked for no more than the options want.

    It may have `pad_to`, S of every batch, `null_tokens` of a dropped row, a digest of its `numbering`, and the
    `max_lengths` that captions were cut to.
    """

    def lengths(self, rows: Rows | None = None) -> NDArray[np.int32]:
        """Tokens of these rows."""

    def row_group_offsets(self) -> Rows:
        """(G + 1,) where each row group's rows begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawOptions:
    """What a sampler draws, and in which order; its arguments of these names."""

    seed: int = 0
    order: OrderName = "rows"
    group_window: int = 16
    group_by: str | None = None
    weights: Weights = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("group_window", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least or value >> 64:
                raise ConfigError(f"{name}: expected a whole number from {least} to 2**64 - 1, got {value!r}")
        if self.order not in get_args(OrderName):
            raise ConfigError(f"order: expected one of {', '.join(get_args(OrderName))}, got {self.order!r}")
        if not (isinstance(self.dropout, int | float) and 0 <= self.dropout <= 1):
            raise ConfigError(f"dropout: expected a number from 0 to 1, got {self.dropout!r}")
        if self.weights is not None and self.group_by is None:
            raise ConfigError('weights: expected group_by beside them ("row", or a column), got none')

    def list_values(self) -> dict[str, Any]:
        """All but the seed, as JSON has them."""
        values = {name: value for name, value in asdict(self).items() if name != "seed"}
        values["dropout"] = float(self.dropout)
        if isinstance(self.weights, Mapping):
            values["weights"] = sorted((index, float(weight)) for index, weight in self.weights.items())
        elif self.weights is not None and not isinstance(self.weights, str):
            values["weights"] = [(index, float(weight)) for index, weight in enumerate(self.weights)]
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What an epoch has in some order: so many rows, or groups of rows.

    `offsets` (G + 1,) is where those of each row group begin; None where no order asks for it.
    """

    count: int
    captions: Captions | None = None
    offsets: Rows | None = None

    def digest(self) -> str | None:
        """Letters of what an order of whole row groups depends on; None for another order."""
        return None if self.offsets is None else hashlib.sha256(self.offsets.tobytes()).hexdigest()[:16]


def open_samples(data: Measured, draws: DrawOptions) -> Samples:
    """The samples of a data set, all that is kept of it from epoch to epoch."""
    captions = None if draws.group_by is None else open_captions(data, draws.group_by, draws.weights)
    offsets = data.row_group_offsets() if draws.order == "row_groups" else None
    if captions is None:
        return Samples(len(data), None, offsets)
    if offsets is not None:  # a sample lies where its first row does
        offsets = np.searchsorted(captions.rows[captions.starts[:-1]], offsets).astype(np.int64)
    return Samples(len(captions), captions, offsets)


class Epoch:
    """Epoch `number` of the samples of a data set."""

    def __init__(self, data: Measured, samples: Samples, number: int, draws: DrawOptions, cut: BatchOptions) -> None:
        self.number = number
        self._data = data
        self._captions = samples.captions
        self._dropout = draws.dropout
        self._keys = [derive_key(draws.seed, number, purpose) for purpose in (ORDER, BATCHES, CAPTIONS, DROPOUT)]
        self._order = open_order(samples, draws, self._keys[ORDER])
        self.batches = cut_batches(samples.count, cut, self._measure, self._keys[BATCHES])

    def draw(self, places: Rows) -> list[int] | list[Draw]:
        """What stands at these places (K,) of the order: rows, or, where captions are dropped, draws."""
        if not len(places):
            return []
        samples = self._order.take(places)
        rows: list[int] = self._choose(samples).tolist()
        if not self._dropout:
            return rows
        return [Draw(row, dropped) for row, dropped in zip(rows, self._drop(samples).tolist(), strict=True)]

    def _choose(self, samples: Rows) -> Rows:
        """A row of each of these samples (K,)."""
        return samples if self._captions is None else self._captions.draw(samples, self._keys[CAPTIONS])

    def _drop(self, samples: Rows) -> NDArray[np.bool_]:
        """Which of these samples (K,) are read without their caption."""
        return draw_uniform(self._keys[DROPOUT], samples) < self._dropout

    def _measure(self, start: int, stop: int) -> Rows:
        """Tokens (K,) that what stands at these places of the order takes in a batch."""
        samples = self._order.take(np.arange(start, stop, dtype=np.int64))
        rows = self._choose(samples)
        if (padded := getattr(self._data, "pad_to", None)) is not None:
            return np.full(len(rows), padded, np.int64)
        lengths = self._data.lengths(rows).astype(np.int64)
        null = getattr(self._data, "null_tokens", None) if self._dropout else None
        return lengths if null is None else np.where(self._drop(samples), null, lengths)


def open_order(samples: Samples, draws: DrawOptions, key: int) -> Order:
    """The order of an epoch's samples."""
    if draws.order == "sequential":
        return SequentialOrder()
    if samples.offsets is None:
        return RowOrder(samples.count, key)
    return GroupOrder(samples.offsets, key, draws.group_window)
