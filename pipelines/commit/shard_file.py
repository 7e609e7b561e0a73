"""A shard as bytes: serialized whole and checked before any of it reaches the output."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit.records import RECORD_KEY, UnitRecord
from pipelines.job import FrozenJob
from t5enc.errors import OutputError
from t5enc.storage import METADATA_KEY, PREFIX, SCHEMA
from t5enc.storage.layout import FORMAT_VERSION

# Small enough to read a few captions without the rest, large enough that a disk reads at full speed.
ROW_GROUP_BYTES = 8 << 20


def serialize_shard(table: pa.Table, record: UnitRecord, job: FrozenJob) -> pa.Buffer:
    """The Parquet bytes of a shard; its footer holds its record and the job, its row count is checked."""
    form = {
        "format": FORMAT_VERSION,
        "storage_dtype": job.storage_dtype,
        "dim": job.dim,
        "job": job.identity,
        "fingerprint": job.fingerprint,
    }
    metadata = {METADATA_KEY: json.dumps(form), RECORD_KEY: record.to_json()}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        row_group_size=_rows_per_group(table),
        **_options(table.schema),
    )
    buffer = sink.getvalue()
    written = pq.ParquetFile(pa.BufferReader(buffer)).metadata.num_rows
    if written != record.counts.captions:
        raise OutputError(f"{record.name}: expected {record.counts.captions} rows in the shard, got {written}")
    return buffer


def hash_content(table: pa.Table) -> str:
    """Hash of a shard's rows, however they are chunked: their keys, embeddings and errors, whatever else is kept."""
    digest = hashlib.sha256()
    for field in SCHEMA:
        _update(digest, table.column(field.name))
    return digest.hexdigest()


def _update(digest: Any, column: pa.ChunkedArray) -> None:
    if column.type == pa.large_binary():
        for value in column:
            digest.update(value.as_buffer() or b"")
    else:
        digest.update(json.dumps(column.to_pylist()).encode())


def _rows_per_group(table: pa.Table) -> int:
    return max(1, int(len(table) * ROW_GROUP_BYTES / max(table.nbytes, 1)))


def _options(schema: pa.Schema) -> dict[str, Any]:
    """Embeddings are written as they are; what repeats is worth a dictionary, what is text worth compressing."""
    flat = [f.name for f in schema if not pa.types.is_nested(f.type) and f.name != f"{PREFIX}bytes"]
    return {
        "compression": dict.fromkeys(flat, "zstd"),
        "use_dictionary": [name for name in flat if pa.types.is_string(schema.field(name).type)],
        "write_statistics": flat,
    }
