"""Data sets without files: one whose rows are their numbers, and one too large for anything that keeps its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from t5enc.dataset.lookup import Groups

BILLION = 10**9


class StandIn:
    """Rows of these lengths, in row groups of so many rows, with columns; a batch of them is its rows and flags."""

    def __init__(self, lengths: Sequence[int], groups: Sequence[int] = (), **columns: Sequence[Any]) -> None:
        self._lengths = np.array(lengths, np.int32)
        self._offsets = np.cumsum([0, *(groups or [len(lengths)])])
        self._columns = columns

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, row: Any) -> int:
        return int(row)

    def __getitems__(self, rows: Sequence[Any]) -> list[int]:
        return [int(row) for row in rows]

    def lengths(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int32]:
        return self._lengths if rows is None else self._lengths[rows]

    def row_group_offsets(self) -> NDArray[np.int64]:
        return self._offsets

    def groups(self, by: str) -> Groups:
        """Rows by the values of a column; a null has a group of its own, which comes last."""
        members: dict[Any, list[int]] = {}
        for row, value in enumerate(self._columns[by]):
            members.setdefault((value is None, row if value is None else value), []).append(row)
        found = [rows for (is_null, _), rows in sorted(members.items(), key=lambda item: item[0][0])]
        return Groups(
            offsets=np.cumsum([0, *map(len, found)]), rows=np.array([row for rows in found for row in rows], np.int64)
        )

    def read_column(self, name: str) -> pa.ChunkedArray:
        column = self._columns[name]
        middle = len(column) // 2
        return pa.chunked_array([column[:middle], column[middle:]], type=pa.array(column).type)


class Billion:
    """A billion rows that nobody may look at one by one."""

    def __len__(self) -> int:
        return BILLION

    def lengths(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int32]:
        raise AssertionError("the lengths of a billion rows were asked for")

    def row_group_offsets(self) -> NDArray[np.int64]:
        raise AssertionError("the row groups of a billion rows were asked for")

    def groups(self, by: str) -> Groups:
        raise AssertionError(f"groups of a billion rows were asked for, by {by}")

    def read_column(self, name: str) -> pa.ChunkedArray:
        raise AssertionError(f"{name} of a billion rows was asked for")


def make_captions(counts: Sequence[int]) -> StandIn:
    """A data set of so many captions for each row of the input, which are as long as their index, and one."""
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    indices = [index for count in counts for index in range(count)]
    return StandIn(
        [index + 1 for index in indices],
        row=rows,
        text_embedding_caption_index=np.array(indices, np.int32),
        id=[f"id-{row}" for row in rows],
        score=[float(index) for index in indices],
    )
