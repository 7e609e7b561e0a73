"""Inputs of very many files and of very many units, made of links to one small file."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Some filesystems allow no more names of a file.
MOST_LINKS = 50_000
FILES_A_FOLDER = 1_000
ROWS_A_GROUP = 100_000
SHARD_BYTES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """An input: how many files of how many rows, and rows of a unit."""

    name: str
    files: int
    rows: int
    rows_per_shard: int


WORKLOADS = (
    Workload(name="files", files=100_000, rows=8, rows_per_shard=8),
    Workload(name="units", files=1_000, rows=1_000_000, rows_per_shard=1_000),
)
QUICK = (Workload(name="units", files=30, rows=100, rows_per_shard=10),)


def lay_out(folder: Path, workload: Workload) -> None:
    """Files that are links to one: each path is a source of its own."""
    original = folder / "captions.parquet"
    texts = pa.array(["a cat"] * workload.rows).dictionary_encode()
    pq.write_table(pa.table({"caption": texts}), original, compression="zstd", row_group_size=ROWS_A_GROUP)
    link_files(
        original, (folder / "in" / f"{n // FILES_A_FOLDER:04d}" / f"{n:06d}.parquet" for n in range(workload.files))
    )
    folder.joinpath("shard").write_bytes(bytes(SHARD_BYTES))


def link_files(original: Path, names: Iterable[Path]) -> None:
    """Other names of a file, or of copies of it where it has too many."""
    for number, name in enumerate(names):
        if number % MOST_LINKS == 0:
            source = original.with_suffix(f".{time.monotonic_ns()}")
            shutil.copyfile(original, source)
        name.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, name)
