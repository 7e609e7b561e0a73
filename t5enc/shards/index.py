"""Where the rows of a shard lie, found from its footer and a few small columns.

R rows of a shard that count, G its row groups. The bytes of a row group's embeddings are one plain page that ends where
the column chunk does: each value after its length in four bytes, and nothing for a row without one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from t5enc.errors import OutputError
from t5enc.shards.files import OpenShard, Stamp, check_stamp
from t5enc.storage import KEY, METADATA_KEY, NOT_SHARED, PREFIX, SHARED_ROW
from t5enc.storage.codecs import find_codec
from t5enc.storage.row_index import CHECKSUM, MISSING, copy_rows, unpack_rows

BYTES = f"{PREFIX}bytes"
SOURCE, ROW, CAPTION_INDEX = (f"{PREFIX}{name}" for name in ("source", "row", "caption_index"))
TOKENS, ERROR, NUM_BYTES = (f"{PREFIX}{name}" for name in ("num_tokens", "error", "num_bytes"))
LENGTH_BYTES = 4
# A page's header, and how its levels may begin.
HEADER_BYTES = 128
ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """Rows that count, in order: 8 bytes each where a row has one caption, and tokens are of one size.

    `ends` is where a value's bytes end, 0 for none. `shared_rows` are those of `shared/` that rows refer to, NOT_SHARED
    for others, None where none refers. `file_rows` are the rows' places in the file, None where all count.
    `group_starts` (G + 1,) are places in the file, and `is_plain` (G,) says whether byte ranges serve, as far as known.
    """

    stamp: Stamp
    num_rows: int
    tokens: NDArray[np.int32]
    ends: NDArray[np.unsignedinteger[Any]]
    token_bytes: int | None
    num_bytes: NDArray[np.int64] | None
    key_rows: NDArray[np.int64] | int
    key_captions: NDArray[np.int32] | None
    file_rows: NDArray[np.int64] | None
    group_starts: NDArray[np.int64]
    is_plain: NDArray[np.bool_]
    shared_rows: NDArray[np.int64] | None = None
    content_keys: NDArray[np.uint8] | None = None
    """(R, 16), if they were asked for, or rows refer to others."""
    checksums: NDArray[np.uint32] | None = None
    """CRC-32 of values, if keys were asked for and the footer has them."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        arrays = (
            *(self.ends, self.num_bytes, self.tokens, self.key_rows, self.key_captions, self.file_rows),
            *(self.shared_rows, self.content_keys, self.checksums),
        )
        return 1024 + self.group_starts.nbytes + sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

    def find_sizes(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of rows' values."""
        if self.num_bytes is not None:
            return self.num_bytes[places]
        assert self.token_bytes is not None
        return self.tokens[places].astype(np.int64) * self.token_bytes

    def find_starts(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the lengths before rows' values stand in the file, of rows with an embedding in plain groups."""
        return self.ends[places].astype(np.int64) - self.find_sizes(places) - LENGTH_BYTES

    def are_there(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows have an embedding of their own."""
        found: NDArray[np.bool_] = self.ends[places] != 0
        return found

    def find_shared_rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of `shared/` that rows refer to, NOT_SHARED for those with an embedding of their own or none."""
        return np.full(len(places), NOT_SHARED) if self.shared_rows is None else self.shared_rows[places]

    def find_keys(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The rows of the input that rows are of, and which of their captions."""
        captions = np.zeros(len(places), np.int32) if self.key_captions is None else self.key_captions[places]
        rows = places + self.key_rows if isinstance(self.key_rows, int) else self.key_rows[places]
        return rows, captions

    def find_place(self, row: int, caption_index: int) -> int | None:
        """The place of a caption of the input; None where it is not here."""
        rows, captions = self.find_keys(np.arange(len(self)))
        here = np.flatnonzero((rows == row) & (captions == caption_index))
        return int(here[0]) if len(here) else None

    def find_file_rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows stand in the file."""
        return places if self.file_rows is None else self.file_rows[places]

    def find_groups(self, file_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row groups of places in the file."""
        return np.searchsorted(self.group_starts, file_rows, "right") - 1

    def counted_groups(self) -> NDArray[np.int64]:
        """(G + 1,) where row groups begin, in rows that count."""
        starts = self.group_starts
        return starts if self.file_rows is None else np.searchsorted(self.file_rows, starts).astype(np.int64)


def read_index(shard: OpenShard, *, storage: str, dim: int, skips_missing: bool, with_keys: bool = False) -> ShardIndex:
    """The index of a shard; OutputError for one that is damaged, of another dtype or width, or changes meanwhile."""
    try:
        with shard.open_parquet() as file:
            check_form(shard.path, file.schema_arrow, storage, dim)
            index = _make_index(shard, file, storage, dim, skips_missing, with_keys)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise OutputError(f"{shard.path}: expected a Parquet shard, got: {error}") from error
    check_stamp(shard, index.stamp)
    return index


def check_form(path: str, schema: pa.Schema, storage: str, dim: int) -> None:
    """OutputError where a shard has other columns, another dtype or width than its job says.

    One that another tool wrote again may have lost what says how; then it is as its job says.
    """
    for name in (BYTES, ROW, CAPTION_INDEX, TOKENS, ERROR):
        if name not in schema.names:
            raise OutputError(f"{path}: no column {name!r}; expected one of {', '.join(schema.names)}")
    form = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    found = form.get("storage_dtype", storage), form.get("dim", dim)
    if found != (storage, dim):
        raise OutputError(f"{path}: expected {storage} of width {dim} as its job has it, got {found[0]} of {found[1]}")


def read_rows(file: pq.ParquetFile) -> pa.Table:
    """What `copy_rows` gave of all rows: of the footer, or of the columns where it does not say."""
    table = unpack_rows(file.metadata)
    if table is not None:
        return table
    more = [name for name in (NUM_BYTES, KEY.name, SHARED_ROW.name) if name in file.schema_arrow.names]
    return copy_rows(file.read(columns=[ROW, CAPTION_INDEX, TOKENS, ERROR, *more], use_threads=False))


def read_content_keys(rows: pa.Table) -> NDArray[np.uint8]:
    """(R, 16) keys of what `read_rows` gave, whatever where there is none; KeyError where rows have no keys."""
    column = rows[KEY.name].combine_chunks()
    chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    start, width = chunk.offset, KEY.type.byte_width
    return np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, width)[start : start + len(chunk)]


def _make_index(
    shard: OpenShard, file: pq.ParquetFile, storage: str, dim: int, skips_missing: bool, with_keys: bool
) -> ShardIndex:
    table = read_rows(file)
    present = ~table[MISSING].to_numpy()
    shared_rows = _read_shared_rows(table)
    is_own = present if shared_rows is None else present & (shared_rows == NOT_SHARED)
    tokens = np.where(present, _to_numpy(table[TOKENS], np.int32), 0).astype(np.int32)
    token_bytes = find_codec(storage).token_bytes(dim)
    num_bytes = None if token_bytes is not None else _read_sizes(shard.path, table, storage)
    sizes = tokens.astype(np.int64) * (token_bytes or 0) if num_bytes is None else num_bytes
    ends, group_starts, is_plain = _find_ends(file.metadata, np.where(is_own, sizes + LENGTH_BYTES, 0))
    # Those of pages that are no plain bytes are never used, and may lie before the file.
    ends = np.where(is_own, np.maximum(ends, 1), 0)
    kept = np.flatnonzero(present) if skips_missing and not present.all() else None
    chosen: Any = slice(None) if kept is None else kept
    return ShardIndex(
        stamp=shard.stamp,
        num_rows=len(present),
        tokens=tokens[chosen],
        ends=ends[chosen].astype(np.uint32 if ends.max(initial=0) < 1 << 32 else np.uint64),
        token_bytes=token_bytes,
        num_bytes=None if num_bytes is None else num_bytes[chosen],
        key_rows=_shorten_rows(_to_numpy(table[ROW], np.int64)[chosen]),
        key_captions=_shorten_captions(_to_numpy(table[CAPTION_INDEX], np.int32)[chosen]),
        file_rows=kept,
        group_starts=group_starts,
        is_plain=is_plain,
        shared_rows=None if shared_rows is None else shared_rows[chosen],
        content_keys=read_content_keys(table)[chosen].copy() if with_keys or shared_rows is not None else None,
        checksums=_read_checksums(table)[chosen] if with_keys and CHECKSUM in table.column_names else None,
    )


def _read_shared_rows(table: pa.Table) -> NDArray[np.int64] | None:
    """The rows of `shared/` that rows refer to; None where none refers."""
    if SHARED_ROW.name not in table.column_names or table[SHARED_ROW.name].null_count == len(table):
        return None
    return _to_numpy(pc.fill_null(table[SHARED_ROW.name], NOT_SHARED), np.int64)


def _read_checksums(table: pa.Table) -> NDArray[np.uint32]:
    return _to_numpy(table[CHECKSUM], np.uint32)


def _shorten_rows(rows: NDArray[np.int64]) -> NDArray[np.int64] | int:
    """Rows of the input, or the first of them where each is the next one."""
    is_next = len(rows) and (np.diff(rows) == 1).all()
    return int(rows[0]) if is_next else rows


def _shorten_captions(captions: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """Which caption of its row each is; None where each is the first."""
    return captions if captions.any() else None


def _to_numpy(column: pa.ChunkedArray, dtype: Any) -> NDArray[Any]:
    return np.asarray(column.to_numpy(), dtype)


def _read_sizes(path: str, table: pa.Table, storage: str) -> NDArray[np.int64]:
    """Bytes of each row's value where tokens differ in size: as a column says."""
    if NUM_BYTES not in table.column_names:
        raise OutputError(f"{path}: expected a column {NUM_BYTES!r}, by which rows of {storage} are found, got none")
    return _to_numpy(pc.fill_null(table[NUM_BYTES], 0), np.int64)


def _find_ends(
    metadata: Any, spans: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(rows,) where each value ends, of `spans` bytes with its length; (G + 1,) first rows, and (G,) what is plain."""
    group_starts, chunk_ends, chunk_sizes = _read_groups(metadata)
    before = np.concatenate([[0], np.cumsum(spans)])
    of_groups = np.diff(before[group_starts])
    rest = np.repeat(before[group_starts[1:]], np.diff(group_starts)) - before[1:]
    ends = np.repeat(chunk_ends, np.diff(group_starts)) - rest
    return ends, group_starts, _find_plain(chunk_sizes, of_groups, np.diff(group_starts))


def _read_groups(metadata: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(G + 1,) first rows, (G,) ends of the column chunks of bytes, and their bytes: -1 where they are not plain."""
    leaf = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == BYTES)
    counts, ends, sizes = [], [], []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(leaf)
        plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
        counts.append(group.num_rows)
        ends.append(chunk.data_page_offset + chunk.total_compressed_size)
        sizes.append(chunk.total_compressed_size if plain and ENCODINGS.issuperset(chunk.encodings) else -1)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return starts, np.array(ends, np.int64), np.array(sizes, np.int64)


def _find_plain(sizes: NDArray[np.int64], expected: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a column chunk has room for its values and for the header and levels of one page, and for no more."""
    excess = sizes - expected
    found: NDArray[np.bool_] = (sizes >= 0) & (excess >= 0) & (excess <= HEADER_BYTES + rows // 4)
    return found


def name_row(path: str, file_row: int) -> str:
    """A row of a shard for an error."""
    return f"{path}: row {file_row}"
