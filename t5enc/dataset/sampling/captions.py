"""Several captions a sample: which rows belong together, and which of them is drawn by (seed, epoch, sample).

A sample has the same draw in whatever batch it comes, on whatever rank, before or after a run is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from t5enc.dataset.sampling.keyed import draw_uniform
from t5enc.errors import ConfigError

Weighing: TypeAlias = Mapping[int, float] | Sequence[float] | str
Weights: TypeAlias = Weighing | None
Rows: TypeAlias = NDArray[np.int64]
CAPTION_INDEX = "text_embedding_caption_index"


class Grouped(Protocol):
    """Rows that belong together: those of group k are `rows[offsets[k] : offsets[k + 1]]`."""

    @property
    def offsets(self) -> NDArray[np.int64]: ...
    @property
    def rows(self) -> NDArray[np.int64]: ...


class Columns(Protocol):
    """A data set of which captions are grouped and weighed."""

    def __len__(self) -> int: ...

    def groups(self, by: str) -> Grouped:
        """Rows with the same value of a column; "row": the captions of one row of the input."""

    def read_column(self, name: str) -> pa.ChunkedArray:
        """One column over all rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Captions:
    """The rows of each of N samples: those of sample i are `rows[starts[i]:starts[i + 1]]`.

    `sums` is the running sum (R,) of the weights of `rows`, of which each sample's largest is 1; None where all count
    the same.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    sums: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def draw(self, samples: NDArray[np.int64], key: int) -> NDArray[np.int64]:
        """A row of each of these samples (K,), by weight."""
        chance = draw_uniform(key, samples)
        starts, stops = self.starts[samples], self.starts[samples + 1]
        if self.sums is None:
            return self.rows[starts + (chance * (stops - starts)).astype(np.int64)]
        before = np.where(starts > 0, self.sums[starts - 1], 0.0)
        ends = self.sums[stops - 1]
        # Rounding may give the end itself, which is where the next sample begins.
        target = np.minimum(before + chance * (ends - before), np.nextafter(ends, 0.0))
        return self.rows[np.maximum(np.searchsorted(self.sums, target, side="right"), starts)]


def open_captions(data: Columns, group_by: str, weights: Weights) -> Captions:
    """The samples of a data set, in the order of their first rows.

    `group_by` is "row" for the captions of one row of the input, or a column whose equal values are one sample.
    ConfigError for a caption without a weight, and for a sample whose weights are all zero.
    """
    groups = data.groups(group_by)
    starts, rows = sort_samples(groups.offsets, groups.rows)
    sums = None if weights is None else _sum_weights(read_weights(data, weights)[rows], starts, rows)
    return Captions(starts, rows, sums)


def sort_samples(offsets: Rows, rows: Rows) -> tuple[Rows, Rows]:
    """Groups of rows in the order of their first rows."""
    order = np.argsort(rows[offsets[:-1]], kind="stable")
    if (np.diff(order) > 0).all():
        return offsets, rows
    sizes = np.diff(offsets)[order]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return starts, rows[np.repeat(offsets[:-1][order] - starts[:-1], sizes) + np.arange(len(rows))]


def read_weights(data: Columns, weights: Weighing) -> NDArray[np.float64]:
    """The weight (N,) of each row: of its caption index, or what a numeric column says; ConfigError for one below 0."""
    if isinstance(weights, str):
        found = _read_numbers(data, weights)
    else:
        indices = data.read_column(CAPTION_INDEX).to_numpy()
        table = dict(weights) if isinstance(weights, Mapping) else dict(enumerate(weights))
        _check_weighed(indices, table)
        found = np.zeros(len(indices), np.float64)
        for index, weight in table.items():
            found[indices == index] = weight
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
    if len(wrong):
        raise ConfigError(f"weights: expected numbers of at least 0, got {found[wrong[0]]} for row {wrong[0]}")
    return found


def _check_weighed(indices: NDArray[np.int32], table: Mapping[int, float]) -> None:
    missing = sorted(set(np.unique(indices).tolist()) - set(table))
    if missing:
        raise ConfigError(f"weights: expected one for each caption index, got none for {missing[0]}")


def _read_numbers(data: Columns, name: str) -> NDArray[np.float64]:
    column = data.read_column(name)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)) or column.null_count:
        raise ConfigError(f"weights: expected a column of numbers without nulls, got {name} of {kind}")
    numbers: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return numbers


def _sum_weights(weights: NDArray[np.float64], starts: NDArray[np.int64], rows: NDArray[np.int64]) -> Any:
    """The running sum (R,) of weights that are in the order of samples, each as a part of its sample's largest.

    So a sample of small ones has its own say after others of large ones, which would swallow them.
    """
    largest = np.maximum.reduceat(weights, starts[:-1]) if len(starts) > 1 else weights
    empty = np.flatnonzero(largest <= 0)
    if len(empty):
        row = rows[starts[empty[0]]]
        raise ConfigError(f"weights: expected some above 0 for each sample, got zeros for the sample of row {row}")
    return np.cumsum(weights / np.repeat(largest, np.diff(starts)))
