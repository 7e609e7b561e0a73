"""A shard as bytes: written a row group at a time and checked before any of it reaches the output."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.commit.counts import Counts
from pipelines.commit.records import UnitRecord
from pipelines.job import FrozenJob
from t5enc.errors import OutputError
from t5enc.storage import KEY, METADATA_KEY, NUM_BYTES, PREFIX, SCHEMA, SHARED_ROW, list_columns
from t5enc.storage.layout import FORMAT_VERSION, RECORD_KEY
from t5enc.storage.row_index import ROWS_KEY, copy_rows, pack_rows
from t5enc.storage.schema import KEYS

BYTES = f"{PREFIX}bytes"
# Rows of a row group at most: Arrow writes no more of them in one page.
GROUP_ROWS = 16384
# Small enough to read a few captions without the rest, large enough that a disk reads at full speed.
ROW_GROUP_BYTES = 8 << 20
# A page is as large as its row group.
PAGE_BYTES = 1 << 30


class ShardFile:
    """A shard while it is written: in memory, or where it may be larger than that in a temporary file of this machine.

    The bytes of a row group's embeddings are one page of plain values, so that a footer tells where each row's lie.
    """

    def __init__(self, kept: pa.Schema, job: FrozenJob, *, in_memory: bool = True) -> None:
        """`kept` are the columns before those of embeddings."""
        form = {
            "format": FORMAT_VERSION,
            "storage_dtype": job.storage_dtype,
            "dim": job.dim,
            "job": job.identity,
            "fingerprint": job.fingerprint,
        }
        columns = list_columns(job.storage_dtype, has_keys=job.has_keys, has_references=job.has_references)
        self.schema = pa.schema([*kept, *columns], metadata={METADATA_KEY: json.dumps(form)})
        self._rows: list[pa.Table] = []
        self._ends: list[int] = []
        with _explained():
            self._file: Any = io.BytesIO() if in_memory else tempfile.TemporaryFile()  # noqa: SIM115
        self._writer = pq.ParquetWriter(self._file, self.schema, data_page_size=PAGE_BYTES, **_options(self.schema))

    def write(self, columns: Sequence[Any]) -> None:
        """One more row group, of these columns in order."""
        table = pa.Table.from_arrays(columns, schema=self.schema)
        with _explained():
            self._writer.write_table(table, row_group_size=max(1, len(table)))
        if len(table):
            self._rows.append(copy_rows(table))
            self._ends.append(self._file.tell())

    def finish(self, record: UnitRecord) -> Any:
        """The bytes, whose footer holds the record and the job; OutputError where the record tells of other rows."""
        self._writer.add_key_value_metadata({RECORD_KEY: record.to_json()})
        if self._rows:
            self._writer.add_key_value_metadata({ROWS_KEY: pack_rows(self._rows, self._ends)})
        with _explained():
            self._writer.close()
            self._file.flush()
        data = self._map()
        written = pq.read_metadata(pa.BufferReader(data)).num_rows
        if written != record.counts.captions:
            raise OutputError(f"{record.name}: expected {record.counts.captions} rows in the shard, got {written}")
        return data

    def _map(self) -> Any:
        """The bytes as they lie; a file is gone when nobody holds them any more."""
        if isinstance(self._file, io.BytesIO):
            return self._file.getbuffer()
        with self._file:
            return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: a shard of very many captions is first written there, and cannot be: {error}; "
            "make room, or set TMPDIR to a folder that has some"
        ) from error


def cut_by_size(sizes: NDArray[np.int64], limit: int, most: int | None = None) -> Iterator[slice]:
    """Consecutive rows, at `most` so many, of no more bytes together than the limit, or one row.

    Of no rows there is one such slice, too.
    """
    ends = np.cumsum(sizes)
    start = 0
    while start < len(ends) or start == 0:
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + limit, side="right"))
        stop = min(max(stop, start + 1), start + (most or len(ends)), len(ends))
        yield slice(start, stop)
        start = max(stop, 1)


class ContentHash:
    """Hash of a shard's rows, however they are chunked: their keys, embeddings and errors, whatever else is kept.

    It goes column by column, so that the keys of all rows come first, and what is small is held to the end.
    """

    def __init__(self, keys: pa.Table) -> None:
        """`keys` are the columns before the bytes."""
        self._digest = hashlib.sha256()
        self._rest: list[pa.Table] = []
        for name in KEYS:
            _update(self._digest, keys.column(name))

    def add(self, rows: pa.Table) -> None:
        """The next rows."""
        _update(self._digest, rows.column(BYTES))
        self._rest.append(rows.select([name for name in REST if name in rows.column_names]))

    def hexdigest(self) -> str:
        """The hash of all rows, once."""
        rest = pa.concat_tables(self._rest)
        for name in rest.column_names:
            _update(self._digest, rest.column(name))
        return self._digest.hexdigest()


# What only some shards have comes last, so that the hash of the others is what it was.
REST = [*SCHEMA.names[len(KEYS) + 1 :], NUM_BYTES.name, KEY.name, SHARED_ROW.name]


def count_rows(rows: pa.Table) -> Counts:
    """What rows of a shard hold, by their columns alone."""
    bad = len(rows) - rows[f"{PREFIX}error"].null_count
    return Counts(
        captions=len(rows),
        encoded=len(rows) - bad,
        errors=bad,
        truncated=rows[f"{PREFIX}truncated"].to_pylist().count(True),
        tokens=int(rows[f"{PREFIX}num_tokens"].to_numpy().sum()),
    )


def hash_content(table: pa.Table) -> str:
    """The hash of a whole shard's rows."""
    content = ContentHash(table)
    content.add(table)
    return content.hexdigest()


def _update(digest: Any, column: pa.ChunkedArray) -> None:
    if column.type == pa.large_binary():
        for value in column:
            digest.update(value.as_buffer() or b"")
    elif column.type == KEY.type:
        digest.update(b"".join(value or b"" for value in column.to_pylist()))
    else:
        digest.update(json.dumps(column.to_pylist()).encode())


def _options(schema: pa.Schema) -> dict[str, Any]:
    """Embeddings are written as they are; what repeats is worth a dictionary, what is text worth compressing."""
    flat = [f.name for f in schema if not pa.types.is_nested(f.type) and f.name != f"{PREFIX}bytes"]
    return {
        "compression": dict.fromkeys(flat, "zstd"),
        "use_dictionary": [name for name in flat if pa.types.is_string(schema.field(name).type)],
        "write_statistics": flat,
    }
