"""What a shard's footer says of all of its rows, so that each is found without reading a column.

It is a copy of small columns. A footer may go along when another tool writes the rows again, in another order or not
all of them; so it says where row groups end in the file, and is passed over where they end elsewhere. It begins with
its own checksum: what a reader finds rows by is right, or not there.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from t5enc.storage.schema import KEY, NUM_BYTES, PREFIX, SHARED_ROW

ROWS_KEY = b"t5enc.rows"
ENDS = b"ends"
BYTES = f"{PREFIX}bytes"
CHECKSUM_BYTES = 4
MISSING = "is_missing"
CHECKSUM = "crc32"
COPIED = tuple(f"{PREFIX}{name}" for name in ("row", "caption_index", "num_tokens"))


def copy_rows(columns: pa.Table) -> pa.Table:
    """Of a row group: where captions stand, tokens, which rows have no embedding, bytes where tokens differ in size,

    content keys and rows of `shared/` where there are such columns; checksums where the bytes are there.
    """
    names = [name for name in (*COPIED, NUM_BYTES.name, KEY.name, SHARED_ROW.name) if name in columns.column_names]
    is_missing = pa.compute.is_valid(columns[f"{PREFIX}error"])
    rows = columns.select(names).replace_schema_metadata(None).append_column(MISSING, is_missing)
    if BYTES not in columns.column_names:
        return rows
    return rows.append_column(CHECKSUM, pa.array(_sum_values(columns[BYTES]), pa.uint32()))


def _sum_values(values: pa.ChunkedArray) -> list[int]:
    """CRC-32 of each value, 0 for none."""
    sums = []
    for chunk in filter(len, values.chunks):
        _, starts, data = chunk.buffers()
        offsets = np.frombuffer(starts, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        view = memoryview(data or b"")
        sums += [zlib.crc32(view[start:stop]) for start, stop in itertools.pairwise(offsets)]
    return sums


def pack_rows(groups: Sequence[pa.Table], ends: Sequence[int]) -> bytes:
    """What `copy_rows` gave of each row group, and where each ends in the file, as text of a footer."""
    rows = pa.concat_tables(groups).combine_chunks()
    sink = pa.BufferOutputStream()
    schema = rows.schema.with_metadata({ENDS: json.dumps(list(ends))})
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(rows.cast(schema))
    data = sink.getvalue().to_pybytes()
    return base64.b64encode(_sum(data) + data)


def unpack_rows(metadata: Any) -> pa.Table | None:
    """The rows of a Parquet footer, None where it has none, or is of another file."""
    packed = (metadata.metadata or {}).get(ROWS_KEY)
    if packed is None:
        return None
    try:
        found = base64.b64decode(packed)
        checksum, data = found[:CHECKSUM_BYTES], found[CHECKSUM_BYTES:]
        if checksum != _sum(data):
            return None
        rows = pa.ipc.open_stream(data).read_all()
        ends = json.loads((rows.schema.metadata or {})[ENDS])
    except (pa.ArrowException, binascii.Error, KeyError, ValueError, OSError):
        return None
    return rows if len(rows) == metadata.num_rows and ends == list_ends(metadata) else None


def _sum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")


def list_ends(metadata: Any) -> list[int]:
    """Where each row group ends in the file."""
    last = metadata.num_columns - 1
    return [_find_end(metadata.row_group(group).column(last)) for group in range(metadata.num_row_groups)]


def _find_end(chunk: Any) -> int:
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return int(start + chunk.total_compressed_size)
