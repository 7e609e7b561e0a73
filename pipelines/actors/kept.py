"""What is kept of a unit's input: columns beside its captions are held once, and repeated a piece at a time.

Forty captions beside a page of text are that page forty times in the shard, and would be in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Kept columns in the order of `schema`: the `captions` have a row for each, those `beside` one an input row."""

    schema: Any
    captions: Any
    beside: Any

    @classmethod
    def join(cls, parts: Sequence[Kept]) -> Kept:
        """Those of consecutive rows."""
        return cls(
            schema=parts[0].schema,
            captions=pa.concat_tables([part.captions for part in parts]),
            beside=pa.concat_tables([part.beside for part in parts]),
        )

    def take(self, captions: slice, positions: NDArray[np.int64]) -> pa.Table:
        """The columns of consecutive captions in input rows of these positions."""
        texts = self.captions.slice(captions.start, captions.stop - captions.start)
        beside = _repeat(self.beside, positions)
        columns = [(texts if name in texts.column_names else beside).column(name) for name in self.schema.names]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def sizes(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of each caption's row; `positions` are the input rows of all captions."""
        sizes = _row_bytes(self.captions, len(positions))
        return sizes + _row_bytes(self.beside, len(self.beside))[positions] if self.beside.num_columns else sizes


def _repeat(table: pa.Table, positions: NDArray[np.int64]) -> pa.Table:
    """Rows of a table at positions that ascend, no other of which is touched."""
    if not len(positions) or not table.num_columns:
        return table.slice(0, 0)
    first = int(positions[0])
    part = table.slice(first, int(positions[-1]) - first + 1)
    return part if len(part) == len(positions) else part.take(pa.array(positions - first))


def _row_bytes(table: pa.Table, rows: int) -> NDArray[np.int64]:
    sizes = np.zeros(rows, np.int64)
    for column in table.columns if rows else ():
        sizes += np.concatenate([_value_bytes(chunk) for chunk in column.chunks])
    return sizes


def _value_bytes(values: Any) -> NDArray[np.int64]:
    """Bytes of each value, near enough: of texts and bytes wherever they stand, of all else the mean."""
    type_ = values.type
    if pat.is_struct(type_):
        parts = [_value_bytes(values.field(index)) for index in range(type_.num_fields)]
        return np.sum(parts, axis=0, dtype=np.int64) if parts else np.zeros(len(values), np.int64)
    if pat.is_list(type_) or pat.is_large_list(type_) or pat.is_map(type_):
        offsets = values.offsets.to_numpy().astype(np.int64)
        inner = values.values.slice(offsets[0], offsets[-1] - offsets[0])
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(_value_bytes(inner))])
        sizes: NDArray[np.int64] = np.diff(before[offsets - offsets[0]])
        return sizes
    if pat.is_string(type_) or pat.is_binary(type_) or pat.is_large_string(type_) or pat.is_large_binary(type_):
        lengths: NDArray[np.int32] = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
        return lengths.astype(np.int64)
    return np.full(len(values), -(-values.nbytes // max(1, len(values))), np.int64)
