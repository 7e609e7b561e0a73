"""How embeddings lie in Parquet: the schema of one output row, tables made of it, columns read back.

N captions, T tokens of all of them, M model dim.

A caption's embedding is one value of a `large_binary` column beside its shape and dtype. Nested lists of floats
write eight times slower, read ten times slower, and overflow 32-bit offsets after a few thousand captions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from numpy.typing import NDArray

from t5enc.embeddings import Embeddings
from t5enc.errors import OutputError
from t5enc.storage.codecs import count_tokens, decode_into, find_codec, from_bytes, to_bytes, token_bytes, working_dtype

PREFIX = "text_embedding_"
METADATA_KEY = b"t5enc"
SCHEMA = pa.schema(
    [
        pa.field(f"{PREFIX}source", pa.string(), nullable=False),
        pa.field(f"{PREFIX}row", pa.int64(), nullable=False),
        pa.field(f"{PREFIX}caption_index", pa.int32(), nullable=False),
        pa.field(f"{PREFIX}bytes", pa.large_binary()),
        pa.field(f"{PREFIX}shape", pa.list_(pa.int32())),
        pa.field(f"{PREFIX}dtype", pa.string(), nullable=False),
        pa.field(f"{PREFIX}num_tokens", pa.int32(), nullable=False),
        pa.field(f"{PREFIX}truncated", pa.bool_(), nullable=False),
        pa.field(f"{PREFIX}error", pa.string()),
    ]
)
# Beside them where the codec's values differ in size, so that each is found without reading those before it.
NUM_BYTES = pa.field(f"{PREFIX}num_bytes", pa.int64(), nullable=False)
# What an embedding is of: equal keys, equal embeddings. Null where there is none.
KEY = pa.field(f"{PREFIX}key", pa.binary(16))
# The row of `shared/` that holds the embedding of a row without bytes, in outputs that store equal ones once.
SHARED_ROW = pa.field(f"{PREFIX}shared_row", pa.int64())
NOT_SHARED = -1


def list_columns(storage: str, *, has_keys: bool = False, has_references: bool = False) -> pa.Schema:
    """The columns of an output row besides the kept ones, in order, by how embeddings are stored."""
    columns = list(SCHEMA)
    if find_codec(storage).token_bytes(1) is None:
        columns.insert(SCHEMA.get_field_index(f"{PREFIX}num_tokens") + 1, NUM_BYTES)
    return pa.schema([*columns, *([KEY] if has_keys else []), *([SHARED_ROW] if has_references else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionKeys:
    """Where each of N captions stands in the input."""

    source: str
    rows: NDArray[np.int64]
    caption_indices: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """Those of N captions whose embeddings are stored already, and so have no rows among those that were computed.

    `tokens` (N,) are theirs, 0 for all others. Each has either its bytes, by its place, in the codec of the table, or
    in `shared` (N,) the row of `shared/` that holds them, NOT_SHARED for all others.
    """

    tokens: NDArray[np.int32]
    values: Mapping[int, NDArray[np.uint8]]
    shared: NDArray[np.int64]


def build_table(
    kept: pa.Table,
    keys: CaptionKeys,
    embeddings: Embeddings,
    *,
    storage: str,
    truncated: NDArray[np.bool_],
    errors: Sequence[str | None],
    content_keys: NDArray[np.uint8] | None = None,
    stored: StoredRows | None = None,
    has_references: bool = False,
) -> pa.Table:
    """One row a caption: its kept columns, its place, its embedding, and the reason where it has none.

    `content_keys` (N, 16) make a column of keys. The embeddings of `stored` captions have no tokens.
    """
    count = len(errors)
    is_null = np.array([error is not None for error in errors], dtype=bool)
    stored = stored or _store_nothing(count)
    lengths = np.where(is_null, 0, embeddings.lengths.numpy() + stored.tokens).astype(np.int32)
    is_shared = stored.shared != NOT_SHARED
    values = _binary_column(embeddings, storage, is_null | is_shared, stored.values)
    columns = {
        **dict(zip(KEYS, build_keys(keys).columns, strict=True)),
        f"{PREFIX}bytes": values,
        f"{PREFIX}shape": _shape_column(lengths, embeddings.dim, is_null),
        f"{PREFIX}dtype": pa.array([storage], pa.string()).take(pa.array(np.zeros(count, np.int64))),
        f"{PREFIX}num_tokens": pa.array(lengths),
        NUM_BYTES.name: measure_values(values),
        f"{PREFIX}truncated": pa.array(truncated & ~is_null),
        f"{PREFIX}error": pa.array(errors, pa.string()),
        SHARED_ROW.name: pa.array(stored.shared, pa.int64(), mask=~is_shared),
    }
    if content_keys is not None:
        columns[KEY.name] = _key_column(content_keys, is_null)
    schema = list_columns(storage, has_keys=content_keys is not None, has_references=has_references)
    arrays = [*kept.columns, *(columns[name] for name in schema.names)]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*kept.schema, *schema]))


def _store_nothing(count: int) -> StoredRows:
    return StoredRows(tokens=np.zeros(count, np.int32), values={}, shared=np.full(count, NOT_SHARED, np.int64))


def _key_column(keys: NDArray[np.uint8], is_null: NDArray[np.bool_]) -> pa.Array:
    valid = np.packbits(~is_null, bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(np.ascontiguousarray(keys))]
    return pa.Array.from_buffers(KEY.type, len(keys), buffers)


KEYS = SCHEMA.names[: SCHEMA.get_field_index(f"{PREFIX}bytes")]


def measure_values(values: Any) -> Any:
    """How many bytes each value of a column of bytes has, 0 for a null."""
    return pa.compute.fill_null(pa.compute.binary_length(values), 0)


def build_keys(keys: CaptionKeys) -> pa.Table:
    """The columns that say where captions stand, without the rest of a row."""
    sources = pa.array([keys.source], pa.string()).take(pa.array(np.zeros(len(keys.rows), np.int64)))
    columns = [sources, pa.array(keys.rows), pa.array(keys.caption_indices)]
    return pa.Table.from_arrays(columns, schema=pa.schema([SCHEMA.field(name) for name in KEYS]))


def _binary_column(
    embeddings: Embeddings, storage: str, is_null: NDArray[np.bool_], stored: Mapping[int, NDArray[np.uint8]]
) -> pa.Array:
    """large_binary over the values as they lie in memory."""
    data, offsets = _encode(embeddings, storage, is_null, stored)
    valid = np.packbits(~is_null, bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(is_null), buffers)


def _encode(
    embeddings: Embeddings, storage: str, is_null: NDArray[np.bool_], stored: Mapping[int, NDArray[np.uint8]]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of all captions, and where each one's begin and end: at once where tokens are of one size."""
    size = token_bytes(storage, embeddings.dim)
    if size is not None and not stored:
        return to_bytes(embeddings.values, storage), embeddings.offsets.numpy() * size
    nothing = np.empty(0, np.uint8)
    values = [
        stored[place] if place in stored else nothing if null else to_bytes(embeddings[place], storage).reshape(-1)
        for place, null in enumerate(is_null.tolist())
    ]
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int64)
    return np.concatenate([nothing, *values]), offsets


def _shape_column(lengths: NDArray[np.int32], dim: int, is_null: NDArray[np.bool_]) -> pa.Array:
    shapes = np.stack([lengths, np.full_like(lengths, dim)], axis=1)[~is_null]
    offsets = np.concatenate([[0], np.cumsum(2 * ~is_null)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(shapes.ravel()), mask=pa.array(is_null))


def read_column(column: pa.ChunkedArray, storage: str, dim: int) -> Embeddings:
    """Embeddings of a `text_embedding_bytes` column; a column of one chunk is not copied."""
    parts = [_read_chunk(chunk, storage, dim) for chunk in column.chunks if len(chunk)]
    empty = Embeddings(torch.empty(0, dim, dtype=working_dtype(storage)), torch.zeros(1, dtype=torch.int64))
    return Embeddings.concatenate(parts) if parts else empty


def _read_chunk(chunk: pa.Array, storage: str, dim: int) -> Embeddings:
    _, starts, data = chunk.cast(pa.large_binary()).buffers()
    offsets = np.frombuffer(starts, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    if chunk.null_count:
        return _read_with_nulls(chunk, storage, dim)
    raw = np.frombuffer(data or bytearray(), np.uint8)[offsets[0] : offsets[-1]]
    size = token_bytes(storage, dim)
    if size is None:
        return _read_values(raw, offsets - offsets[0], storage, dim)
    tokens, remainder = np.divmod(offsets - offsets[0], size)
    if remainder.any():
        raise OutputError(f"{PREFIX}bytes: expected multiples of {size} bytes ({storage}, {dim} wide), got others")
    return Embeddings(from_bytes(raw.reshape(-1, size), storage, dim), torch.from_numpy(tokens))


def _read_values(raw: NDArray[np.uint8], offsets: NDArray[np.int64], storage: str, dim: int) -> Embeddings:
    """Those of a codec whose values differ in size, one after the other into one place."""
    values = [raw[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
    lengths = [count_tokens(value, storage, dim) for value in values]
    found = Embeddings.from_lengths(torch.empty(sum(lengths), dim, dtype=working_dtype(storage)), lengths)
    for value, out in zip(values, found, strict=True):
        decode_into(value, storage, out)
    return found


def _read_with_nulls(chunk: pa.Array, storage: str, dim: int) -> Embeddings:
    """Null rows get no tokens, whatever their offsets say."""
    present = _read_chunk(chunk.drop_null(), storage, dim)
    lengths = torch.zeros(len(chunk), dtype=torch.int64)
    lengths[torch.from_numpy(chunk.is_valid().to_numpy(zero_copy_only=False))] = present.lengths
    return Embeddings.from_lengths(present.values, lengths)


def column_format(schema: pa.Schema) -> Mapping[str, Any]:
    """What a shard's metadata says of its embeddings: `storage_dtype`, `dim` and the rest of its job."""
    import json

    metadata = schema.metadata or {}
    if METADATA_KEY not in metadata:
        raise OutputError("this Parquet file was not written by t5enc: its metadata has no t5enc entry")
    return json.loads(metadata[METADATA_KEY])  # type: ignore[no-any-return]
