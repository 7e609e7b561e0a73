"""FastVideo, captions alone: Parquet whose rows are padded to 512, or our own shards by hard links.

Its loader walks a folder for all `.parquet`, in the order of their names, and reads `id`, `caption` and three columns
of the embedding; other columns are nothing to it. Until its pull request 1843 it took all bytes for float32. A row
without an embedding ends its training, and links must be hard ones: it looks up where a soft one leads to.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from t5enc.recipes.families import WAN
from t5enc.recipes.recipe import Recipe
from t5enc.storage import PREFIX
from t5enc.storage.codecs import find_codec
from t5enc.trainers.acceptance import check_text
from t5enc.trainers.format import Caption, Given, Pieces, ShardRows
from t5enc.trainers.tensors import pad_bytes

LENGTH = 512
BYTES, SHAPE, DTYPE, ERROR = f"{PREFIX}bytes", f"{PREFIX}shape", f"{PREFIX}dtype", f"{PREFIX}error"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        (BYTES, pa.binary()),
        (SHAPE, pa.list_(pa.int64())),
        (DTYPE, pa.string()),
        ("caption", pa.string()),
    ]
)
# Statistics of columns; to find the least of rows of 8 MB takes longer than to write them.
MEASURED = ["id", DTYPE, "caption"]
# What the loader reads as it is since the pull request.
NARROW = ("float16", "bfloat16")
# The loader reads a whole row group for one row.
GROUP_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FastVideo:
    """Options: `since_1843`, the trainer has that pull request of September 2026, and rows may stay in 16 bits."""

    since_1843: bool = False

    name: ClassVar[str] = "fastvideo"
    recipes: ClassVar[tuple[Recipe, ...]] = (replace(WAN, name="wan with clean: none", clean="none"),)
    needs_path: ClassVar[bool] = True
    more_columns: ClassVar[tuple[str, ...]] = ()

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """Captions are taken as they are."""
        return check_text(caption.text, caption, given)

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """None: what stands for no caption are zeros."""
        return ()

    def make_index(self, counts: Sequence[tuple[ShardRows, int]]) -> Iterable[tuple[str, Pieces]]:
        """None: the loader makes its own, `map_style_cache`, which is to be removed where shards are added."""
        return ()

    def name_shard(self, shard: ShardRows) -> str:
        """Names sort as shards do."""
        return f"shard-{shard.index:06d}.parquet"

    def name_row(self, caption: Caption) -> str | None:
        """None: ids may be the same."""
        return None

    def is_read(self, name: str) -> bool:
        """The loader walks the folder for all Parquet."""
        return name.endswith(".parquet")

    def explain_link(self, shard: ShardRows, given: Given) -> str | None:
        """Why a hard link to a shard will not do, if it will not."""
        allowed = ("float32", *NARROW) if self.since_1843 else ("float32",)
        if given.storage not in allowed:
            hint = "; since_1843=true, where it has that change" if given.storage in NARROW else ""
            return f"the loader reads {', '.join(allowed)} as stored, got {given.storage}{hint}"
        return explain_columns(pq.read_metadata(shard.path, filesystem=shard.filesystem))

    def make_shard(self, shard: ShardRows, rows: Iterator[tuple[Caption, Tensor]], given: Given) -> Iterator[Pieces]:
        """The trainer's own schema for captions alone: rows (512, M); blank captions are left out, as it does."""
        sink = _Sink()
        dtype = self._dtype(given)
        most = max(1, GROUP_BYTES // (LENGTH * given.dim * getattr(torch, dtype).itemsize))
        with pq.ParquetWriter(sink, SCHEMA, use_dictionary=[DTYPE], write_statistics=MEASURED) as writer:
            for group in _cut((row for row in rows if row[0].text.strip()), most):
                table = make_table(group, dtype, given.dim)
                writer.write_table(table, row_group_size=len(table))
                yield sink.take()
        yield sink.take()

    def _dtype(self, given: Given) -> str:
        working = find_codec(given.storage).working
        return working if self.since_1843 and working in NARROW else "float32"


def explain_columns(metadata: Any) -> str | None:
    """Why the loader does not read a shard with this footer as it is, if it does not."""
    schema = metadata.schema.to_arrow_schema()
    for name in ("id", "caption"):
        if name not in schema.names:
            return f"the loader reads a column {name!r}, which the job did not keep"
    if not pa.types.is_string(schema.field("caption").type) and not pa.types.is_large_string(
        schema.field("caption").type
    ):
        return f"the loader reads texts in the column 'caption', got {schema.field('caption').type}"
    place = metadata.schema.names.index(ERROR)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        found = group.column(place).statistics
        if found is None or found.null_count != group.num_rows:
            return "rows without an embedding, at which the loader fails"
    return None


def make_table(rows: list[tuple[Caption, Tensor]], dtype: str, dim: int) -> pa.Table:
    """Rows of the trainer's schema."""
    pieces = [pad_bytes(values.to(getattr(torch, dtype)), LENGTH) for _, values in rows]
    data = np.concatenate([np.frombuffer(piece, np.uint8) for row in pieces for piece in row])
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(len(data) // len(rows))
    columns = [
        pa.array([name_text(caption.path) for caption, _ in rows], pa.string()),
        pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(data)]),
        pa.array([[LENGTH, dim]] * len(rows), pa.list_(pa.int64())),
        pa.array([dtype] * len(rows), pa.string()),
        pa.array([caption.text for caption, _ in rows], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def name_text(path: str) -> str:
    """The trainer's id of a caption: its file's name to the first dot."""
    return f"text_{path.rpartition('/')[2].partition('.')[0]}"


def _cut(rows: Iterator[tuple[Caption, Tensor]], most: int) -> Iterator[list[tuple[Caption, Tensor]]]:
    group: list[tuple[Caption, Tensor]] = []
    for row in rows:
        group.append(row)
        if len(group) == most:
            yield group
            group = []
    if group:
        yield group


class _Sink:
    """A stream that gives what was written, once."""

    def __init__(self) -> None:
        self.closed = False
        self._place = 0
        self._found: list[bytes] = []

    def write(self, data: Any) -> int:
        self._found.append(bytes(data))
        self._place += len(self._found[-1])
        return len(self._found[-1])

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> list[bytes]:
        found, self._found = self._found, []
        return found
