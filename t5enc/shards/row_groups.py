"""Row groups that are decoded whole: of shards that another tool wrote again, compressed or in several pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from t5enc.errors import OutputError
from t5enc.shards.files import OpenShard, check_stamp
from t5enc.shards.index import BYTES, ShardIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedGroup:
    """The values of a row group: row i of it is `data[offsets[i] : offsets[i + 1]]`, unless it is null."""

    first_row: int
    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    is_null: NDArray[np.bool_]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.data.nbytes + self.offsets.nbytes

    def find(self, file_row: int) -> NDArray[np.uint8] | None:
        """The bytes of a row of the file, None for a null."""
        place = file_row - self.first_row
        if self.is_null[place]:
            return None
        return self.data[self.offsets[place] : self.offsets[place + 1]]


def read_group(shard: OpenShard, index: ShardIndex, group: int) -> DecodedGroup:
    """One row group of a shard; OutputError where it is damaged, or the shard another than it was."""
    check_stamp(shard, index.stamp)
    try:
        with shard.open_parquet() as file:
            column = file.read_row_group(group, columns=[BYTES], use_threads=False)[BYTES]
        values = pa.concat_arrays([chunk.cast(pa.large_binary()) for chunk in column.chunks])
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"{shard.path}: row group {group}: expected readable pages, got: {error}") from error
    check_stamp(shard, index.stamp)
    return _decode(values, int(index.group_starts[group]))


def _decode(values: pa.Array, first_row: int) -> DecodedGroup:
    _, starts, data = values.buffers()
    offsets = np.frombuffer(starts, np.int64)[values.offset : values.offset + len(values) + 1]
    return DecodedGroup(
        first_row=first_row,
        data=np.frombuffer(data or b"", np.uint8),
        offsets=offsets,
        is_null=values.is_null().to_numpy(zero_copy_only=False),
    )


def copy_rows(
    shard: OpenShard, group: DecodedGroup, file_rows: Sequence[int], buffers: Sequence[NDArray[np.uint8]]
) -> None:
    """The values of rows into buffers; OutputError for one of another size than its buffer's."""
    for row, buffer in zip(file_rows, buffers, strict=True):
        value = group.find(row)
        if value is None or len(value) != len(buffer):
            found = "none" if value is None else f"{len(value)} bytes"
            raise OutputError(
                f"{shard.path}: row {row}: expected an embedding of {len(buffer)} bytes by its tokens, got {found}"
            )
        buffer[:] = value
