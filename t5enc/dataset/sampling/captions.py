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
# The columns that are the key of a caption; those of one row of the input have the first two in common.
KEYS = ("text_embedding_source", "text_embedding_row")
CAPTION_INDEX = "text_embedding_caption_index"


class Columns(Protocol):
    """What captions are grouped by: columns over all rows of a data set."""

    def __len__(self) -> int: ...

    def read_column(self, name: str) -> pa.ChunkedArray:
        """One column over all rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Captions:
    """The rows of each of N samples: those of sample i are `rows[starts[i]:starts[i + 1]]`.

    `sums` is the running sum (R,) of the weights of `rows`; None where all count the same.
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


def group_captions(data: Columns, group_by: str, weights: Weights) -> Captions:
    """The samples of a data set, in the order of their first rows.

    `group_by` is "row" for the captions of one row of the input, or a column whose equal values are one sample.
    ConfigError for a column with nulls, a caption without a weight, and a sample whose weights are all zero.
    """
    labels = _label_rows(data, group_by)
    rows = np.argsort(labels, kind="stable").astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels))]).astype(np.int64)
    sums = None if weights is None else _sum_weights(read_weights(data, weights)[rows], starts, rows)
    return Captions(starts, rows, sums)


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
    """The running sum (R,) of weights that are in the order of samples."""
    sums = np.cumsum(weights)
    totals = np.add.reduceat(weights, starts[:-1]) if len(starts) > 1 else weights
    empty = np.flatnonzero(totals <= 0)
    if len(empty):
        row = rows[starts[empty[0]]]
        raise ConfigError(f"weights: expected some above 0 for each sample, got zeros for the sample of row {row}")
    return sums


def _label_rows(data: Columns, group_by: str) -> NDArray[np.int64]:
    """The number (N,) of each row's sample, which are counted as they come."""
    if group_by == "row":
        source, row = (_encode(data, name) for name in KEYS)
        return _count_up(source * (int(row.max(initial=0)) + 1) + row)
    return _count_up(_encode(data, group_by))


def _encode(data: Columns, name: str) -> NDArray[np.int64]:
    """A whole number (N,) for each of a column's values."""
    column = data.read_column(name)
    if column.null_count:
        raise ConfigError(f"group_by: expected a column without nulls, got {column.null_count} in {name}")
    if not pa.types.is_dictionary(column.type):
        column = _number_values(column, name)
    chunks = column.unify_dictionaries().chunks
    return np.concatenate([np.zeros(0, np.int64), *(chunk.indices.to_numpy() for chunk in chunks)])


def _number_values(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column with its values once, and a number for each row."""
    try:
        return column.dictionary_encode()
    except pa.ArrowNotImplementedError:
        raise ConfigError(f"group_by: expected a column of values, got {name} of {column.type}") from None


def _count_up(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels (N,) as numbers from 0, by first appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ranks = np.empty(len(first), np.int64)
    ranks[np.argsort(first)] = np.arange(len(first))
    counted: NDArray[np.int64] = ranks[inverse.reshape(-1)]
    return counted
