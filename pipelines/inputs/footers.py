"""Parquet footers: how many rows a file holds, a digest of what it is, and the spans it is read in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.inputs.impostors import DECRYPT, HEAD_BYTES, MAGIC, describe
from pipelines.inputs.listing import encode_path
from pipelines.inputs.sources import SourceFile
from t5enc.errors import SourceError

TAIL_BYTES = 1 << 16
BUFFER_BYTES = 1 << 20
# What follows a footer in the open where columns are encrypted: a nonce and a tag.
SIGNATURE_BYTES = 28
# Magic, the length of a footer, magic.
SMALLEST = 12
# Spark's timestamps that mean "no end" (the year 9999) do not fit nanoseconds: they would be other moments.
INT96_UNIT = "us"


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What the end of a Parquet file says about it."""

    num_rows: int
    row_group_rows: tuple[int, ...]
    digest: str
    schema: Any
    metadata: Any


def read_footer(filesystem: Any, file: SourceFile) -> Footer:
    """Read rows, row groups, digest and Arrow schema; SourceError for what is not the Parquet file listed.

    The digest is of the footer's bytes: counts, sizes, offsets and statistics of every column chunk, and what
    the writer noted. It costs one small read whatever the file's size. An edit that leaves all of them alone
    (another word of equal length between the same smallest and largest value) is not seen.
    """
    with open_parquet(filesystem, file) as (parquet, digest):
        metadata = parquet.metadata
        rows = tuple(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
        return Footer(
            num_rows=sum(rows), row_group_rows=rows, digest=digest, schema=parquet.schema_arrow, metadata=metadata
        )


@contextmanager
def open_parquet(filesystem: Any, file: SourceFile) -> Iterator[tuple[Any, str]]:
    """A `pyarrow.parquet.ParquetFile` that streams its columns, and the digest of its footer."""
    with _open_file(filesystem, file) as handle:
        footer = _read_footer_bytes(handle, file)
        yield _parse(handle, footer, file), sha256(footer).hexdigest()


def _open_file(filesystem: Any, file: SourceFile) -> Any:
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            return pa.OSFile(encode_path(file.path))  # the filesystem takes no names that are not UTF-8
        return filesystem.open_input_file(file.path)
    except OSError as error:
        raise SourceError(f"{file.source}: expected a readable file, got: {error}") from error


def _read_footer_bytes(handle: Any, file: SourceFile) -> bytes:
    """The footer, its four-byte length and the closing magic."""
    try:
        size = handle.size()
        if size != file.size:
            raise SourceError(
                f"{file.source}: changed during the run: expected {file.size} bytes as listed, got {size}"
            )
        tail = handle.read_at(min(size, TAIL_BYTES), max(0, size - TAIL_BYTES))
        if size < SMALLEST or tail[-4:] != MAGIC or (size == len(tail) and tail[:4] != MAGIC):
            found = describe(handle.read_at(min(size, HEAD_BYTES), 0), tail, size)
            raise SourceError(f"{file.source}: expected a Parquet file, got {found}")
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > size - 4:
            raise SourceError(f"{file.source}: expected a footer of {length} bytes, got a file of {size}")
        return bytes(tail[-length:] if length <= len(tail) else handle.read_at(length, size - length))
    except OSError as error:
        raise SourceError(f"{file.source}: expected a readable file, got: {error}") from error


def _parse(handle: Any, footer: bytes, file: SourceFile) -> Any:
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
        if metadata.serialized_size + SIGNATURE_BYTES + 8 == len(footer):  # a look at such a column ends the process
            raise SourceError(f"{file.source}: expected a Parquet file, got one with encrypted columns: {DECRYPT}")
        return pq.ParquetFile(
            handle,
            metadata=metadata,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            coerce_int96_timestamp_unit=INT96_UNIT,
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file.source}: expected a Parquet footer, got a damaged one: {error}") from error
