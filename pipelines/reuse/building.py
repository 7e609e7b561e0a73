"""The index of an earlier output, made of its shards' footers, or of their columns where a footer does not tell."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.reuse.earlier import EarlierOutput
from pipelines.reuse.index import NUMBERS, UNREAD, KeyIndex, build_index, choose_bits, make_entries
from pipelines.reuse.index_cache import open_index
from t5enc.errors import OutputError
from t5enc.shards.files import open_shard
from t5enc.shards.index import check_form, read_content_keys, read_rows
from t5enc.shards.process import Process
from t5enc.storage import KEY, METADATA_KEY, SHARED_ROW
from t5enc.storage.row_index import MISSING

# Of a shard's file, a row takes at least so many bytes.
LEAST_ROW_BYTES = 64
# From so many shards on it is said that they are read, which takes seconds or more.
MANY_SHARDS = 1000

# (3, n) entries, and how many rows the shard has.
ShardKeys = tuple[NDArray[np.uint64], int]


def open_key_index(earlier: EarlierOutput, process: Process, cache: Path | None = None) -> KeyIndex:
    """The index of an output's shards, from this machine's temporary folder, or built there; OSError where it is full.

    `process` has the output's filesystem first.
    """
    return open_index(earlier.digest(), partial(_build, earlier, process), cache)


def _build(earlier: EarlierOutput, process: Process, folder: Path) -> None:
    count = len(earlier.shards)
    if count >= MANY_SHARDS:
        print(f"reuse: reading the keys of {count:,} shards of {earlier.shown}", file=sys.stderr, flush=True)
    rows = np.zeros(count, np.int64)
    bits = choose_bits(int(earlier.shards["size"].to_numpy().sum()) // LEAST_ROW_BYTES)
    build_index(folder, _read_all(earlier, process, rows), rows, bits)


def _read_all(earlier: EarlierOutput, process: Process, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint64]]:
    """The entries of each shard; `rows` gets how many rows each has."""
    names = (name.as_py() for name in earlier.shards["name"])
    read = partial(_read_shard, earlier, process)
    for shard, (entries, count) in enumerate(process.map(read, enumerate(names))):
        rows[shard] = count
        yield entries


def _read_shard(earlier: EarlierOutput, process: Process, item: tuple[int, str]) -> ShardKeys:
    """Nothing of a shard that cannot be read, or is not to be taken: what it holds is computed."""
    number, name = item
    try:
        shard = open_shard(process.filesystems[0], f"{earlier.root}/{name}")
        with shard.open_parquet() as file:
            check_taken(earlier, shard.path, file)
            rows = read_rows(file)
    except (OutputError, OSError, ValueError, KeyError, pa.ArrowException):
        return np.empty((NUMBERS, 0), np.uint64), UNREAD
    places = find_holders(rows)
    return make_entries(read_content_keys(rows)[places], number, places), len(rows)


def check_taken(earlier: EarlierOutput, path: str, file: pq.ParquetFile) -> None:
    """OutputError where a shard is one of another kind than its output's job, or was not made as it says."""
    check_form(path, file.schema_arrow, earlier.storage, earlier.dim)
    if KEY.name not in file.schema_arrow.names:
        raise OutputError(f"{path}: expected a column {KEY.name!r}, got none")
    form = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))
    if earlier.deterministic and not form.get("job", {}).get("deterministic", True):
        raise OutputError(f"{path}: expected a shard of a deterministic job, got one of another")


def find_holders(rows: pa.Table) -> NDArray[np.int64]:
    """The places of rows that have an embedding, and have it here."""
    is_holder = pc.and_(pc.invert(rows[MISSING]), pc.is_valid(rows[KEY.name]))
    if SHARED_ROW.name in rows.column_names:
        is_holder = pc.and_(is_holder, pc.is_null(rows[SHARED_ROW.name]))
    return np.flatnonzero(is_holder.to_numpy())
