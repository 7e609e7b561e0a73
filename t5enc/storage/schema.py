"""How embeddings lie in Parquet: the schema of one output row, tables made of it, columns read back.

N captions, T tokens of all of them, M model dim.

A caption's embedding is one value of a `large_binary` column beside its shape and dtype. Nested lists of floats
write eight times slower, read ten times slower, and overflow 32-bit offsets after a few thousand captions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from t5enc.embeddings import Embeddings
from t5enc.errors import OutputError
from t5enc.storage.codecs import from_bytes, to_bytes, token_bytes, working_dtype

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionKeys:
    """Where each of N captions stands in the input."""

    source: str
    rows: NDArray[np.int64]
    caption_indices: NDArray[np.int32]


def build_table(
    kept: pa.Table,
    keys: CaptionKeys,
    embeddings: Embeddings,
    *,
    storage: str,
    truncated: NDArray[np.bool_],
    errors: Sequence[str | None],
) -> pa.Table:
    """One row a caption: its kept columns, its key, its embedding, and the reason where it has none."""
    count = len(errors)
    reasons = pa.array(errors, pa.string())
    is_null = np.array([error is not None for error in errors], dtype=bool)
    lengths = np.where(is_null, 0, embeddings.lengths.numpy()).astype(np.int32)
    columns = [
        *build_keys(keys).columns,
        _binary_column(to_bytes(embeddings.values, storage), embeddings.offsets.numpy(), is_null),
        _shape_column(lengths, embeddings.dim, is_null),
        pa.array([storage], pa.string()).take(pa.array(np.zeros(count, np.int64))),
        pa.array(lengths),
        pa.array(truncated & ~is_null),
        reasons,
    ]
    return pa.Table.from_arrays([*kept.columns, *columns], schema=_join_schemas(kept.schema))


def build_keys(keys: CaptionKeys) -> pa.Table:
    """The columns that say where captions stand, without the rest of a row."""
    sources = pa.array([keys.source], pa.string()).take(pa.array(np.zeros(len(keys.rows), np.int64)))
    columns = [sources, pa.array(keys.rows), pa.array(keys.caption_indices)]
    return pa.Table.from_arrays(columns, schema=pa.schema(list(SCHEMA)[: len(columns)]))


def _join_schemas(kept: pa.Schema) -> pa.Schema:
    return pa.schema([*kept, *SCHEMA])


def _binary_column(data: NDArray[np.uint8], offsets: NDArray[np.int64], is_null: NDArray[np.bool_]) -> pa.Array:
    """large_binary over the values as they lie in memory."""
    buffers = [
        pa.py_buffer(np.packbits(~is_null, bitorder="little")),
        pa.py_buffer(offsets * data.shape[1]),
        pa.py_buffer(data),
    ]
    return pa.Array.from_buffers(pa.large_binary(), len(is_null), buffers)


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
    size = token_bytes(storage, dim)
    offsets = np.frombuffer(starts, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    if chunk.null_count:
        return _read_with_nulls(chunk, storage, dim)
    tokens, remainder = np.divmod(offsets - offsets[0], size)
    if remainder.any():
        raise OutputError(f"{PREFIX}bytes: expected multiples of {size} bytes ({storage}, {dim} wide), got others")
    raw = np.frombuffer(data or bytearray(), np.uint8)[offsets[0] : offsets[-1]].reshape(-1, size)
    return Embeddings(from_bytes(raw, storage, dim), torch.from_numpy(tokens))


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
