"""The index of an earlier output, made of its shards' footers, or of their columns where a footer does not tell."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.reuse.earlier import EarlierOutput
from pipelines.reuse.index import NUMBERS, OTHER_KIND, UNREAD, KeyIndex, build_index, choose_bits, make_entries
from pipelines.reuse.index_cache import open_index
from t5enc.errors import OutputError
from t5enc.shards.files import OpenShard, open_shard
from t5enc.shards.index import check_form, read_content_keys, read_rows
from t5enc.shards.process import Process
from t5enc.storage import KEY, METADATA_KEY, SHARED_ROW
from t5enc.storage.row_index import MISSING

# Of a shard's file, a row takes at least so many bytes.
LEAST_ROW_BYTES = 64
# From so many shards on it is said that they are read, which takes seconds or more.
MANY_SHARDS = 1000

# Seconds before a shard is read again that a store did not give, and how many shards get them.
WAITS = (0.2, 1.0, 3.0)
MOST_WAITING = 16
# A Parquet file ends with the size of its footer, and a magic word.
TAIL_BYTES = 8

# (3, n) entries, and how many rows the shard has.
ShardKeys = tuple[NDArray[np.uint64], int]


NOTHING: NDArray[np.uint64] = np.empty((NUMBERS, 0), np.uint64)


def open_key_index(earlier: EarlierOutput, process: Process, cache: Path | None = None) -> KeyIndex:
    """The index of an output's shards, from this machine's temporary folder, or built there; OSError where it is full.

    `process` has the output's filesystem first.
    """
    return open_index(earlier.digest(), _Builder(earlier, process).build, cache)


class _Builder:
    """Reads the shards of an output; an index that lacks some because of passing trouble is not kept."""

    def __init__(self, earlier: EarlierOutput, process: Process) -> None:
        self.earlier = earlier
        self.process = process
        self.rows = np.zeros(len(earlier.shards), np.int64)
        self.unreachable = 0

    def build(self, folder: Path) -> bool:
        """Whether the index may be kept."""
        earlier, count = self.earlier, len(self.rows)
        if count >= MANY_SHARDS:
            print(f"reuse: reading the keys of {count:,} shards of {earlier.shown}", file=sys.stderr, flush=True)
        bits = choose_bits(int(earlier.shards["size"].to_numpy().sum()) // LEAST_ROW_BYTES)
        build_index(folder, self._read_all(), self.rows, bits)
        return not self.unreachable

    def _read_all(self) -> Iterator[NDArray[np.uint64]]:
        """The entries of each shard; `rows` gets how many rows each has."""
        names = (name.as_py() for name in self.earlier.shards["name"])
        for shard, (entries, count) in enumerate(self.process.map(self._read_shard, enumerate(names))):
            self.rows[shard] = count
            yield entries

    def _read_shard(self, item: tuple[int, str]) -> ShardKeys:
        """Nothing of a shard that cannot be read, or is not to be taken: what it holds is computed."""
        number, name = item
        filesystem, path = self.process.filesystems[0], f"{self.earlier.root}/{name}"
        for wait in (*WAITS, None):
            found = read_shard(self.earlier, filesystem, path, number)
            if found is not None:
                return found
            if wait is None or self.unreachable >= MOST_WAITING:
                break
            time.sleep(wait)
        self.unreachable += 1
        return NOTHING, UNREAD


def read_shard(earlier: EarlierOutput, filesystem: Any, path: str, number: int) -> ShardKeys | None:
    """The entries of a shard, none where it is gone, damaged, or of another kind; None where it could not be had."""
    try:
        shard = open_shard(filesystem, path)
        try:
            with shard.open_parquet() as file:
                if not is_taken(earlier, file):
                    return NOTHING, OTHER_KIND
                rows = read_rows(file)
        except OSError:  # of Parquet that is damaged, too
            if not _is_damaged(shard):
                raise
            return NOTHING, UNREAD
    except FileNotFoundError:
        return NOTHING, UNREAD
    except OSError:
        return None
    except (OutputError, ValueError, KeyError, pa.ArrowException):
        return NOTHING, UNREAD
    places = find_holders(rows)
    return make_entries(read_content_keys(rows)[places], number, places), len(rows)


def _is_damaged(shard: OpenShard) -> bool:
    """Whether a shard's footer can be had, and is none; OSError where it cannot be had."""
    end = shard.stamp[0]
    tail = _read_bytes(shard, max(0, end - TAIL_BYTES), end)
    size = int.from_bytes(tail[:4], "little") + TAIL_BYTES
    try:
        pq.read_metadata(pa.BufferReader(_read_bytes(shard, max(0, end - size), end)))
    except (OSError, pa.ArrowException):
        return True
    return False


def _read_bytes(shard: OpenShard, start: int, stop: int) -> bytes:
    buffer = np.empty(stop - start, np.uint8)
    return buffer[: shard.read_into([buffer], start)].tobytes()


def is_taken(earlier: EarlierOutput, file: pq.ParquetFile) -> bool:
    """Whether a shard is of its output's kind, has keys, and was made as it says."""
    try:
        check_form(earlier.shown, file.schema_arrow, earlier.storage, earlier.dim)
    except OutputError:
        return False
    form = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))
    is_deterministic = form.get("job", {}).get("deterministic", True)
    return KEY.name in file.schema_arrow.names and (is_deterministic or not earlier.deterministic)


def find_holders(rows: pa.Table) -> NDArray[np.int64]:
    """The places of rows that have an embedding, and have it here."""
    is_holder = pc.and_(pc.invert(rows[MISSING]), pc.is_valid(rows[KEY.name]))
    if SHARED_ROW.name in rows.column_names:
        is_holder = pc.and_(is_holder, pc.is_null(rows[SHARED_ROW.name]))
    return np.flatnonzero(is_holder.to_numpy())
