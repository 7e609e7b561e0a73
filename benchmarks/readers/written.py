"""Outputs to read: ragged rows of float16 as the pipeline writes them, and very many shards that are one.

L tokens of a row, M model dim.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipelines.commit.counts import Counts
from pipelines.commit.planned import to_parquet
from pipelines.commit.records import SCHEMA, UnitRecord
from pipelines.commit.shard_file import GROUP_ROWS, ROW_GROUP_BYTES, ShardFile, cut_by_size
from pipelines.job import FrozenJob, schema_to_text
from t5enc.embeddings import Embeddings
from t5enc.storage import KEY, NOT_SHARED, CaptionKeys, StoredRows, build_table
from t5enc.storage.layout import JOB, MANIFEST, SHARED, SUCCESS, name_shard

DIM, STORAGE = 4096, "float16"
SOURCE, KEPT = "captions.parquet", pa.schema([("id", pa.string()), ("caption", pa.string())])
# Tokens of a row: at least so many, an exponential tail, and no more. Rows are of 0.2 to 2 MB, 0.8 on the average.
SHORTEST, TAIL, LONGEST = 25, 78, 250
SHARD_BYTES = 128 << 20
# Numbers that rows are cut from: drawing all of them anew would take longer than reading them.
POOL = 1 << 24
# Where equal embeddings are stored once: the part of the rows that refer, and how many refer to the same.
REFERRING, EQUAL = 0.3, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """N rows: tokens of each, the row of `shared/` that it refers to, NOT_SHARED for none, and content keys (N, 16)."""

    lengths: NDArray[np.int64]
    shared: NDArray[np.int64]
    keys: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, lengths: NDArray[np.int64], keys: NDArray[np.uint8] | None = None) -> Rows:
        """Rows with embeddings of their own."""
        return cls(lengths=lengths, shared=np.full(len(lengths), NOT_SHARED), keys=keys)

    def take(self, part: slice) -> Rows:
        """Some of them."""
        keys = None if self.keys is None else self.keys[part]
        return Rows(lengths=self.lengths[part], shared=self.shared[part], keys=keys)

    @property
    def own(self) -> NDArray[np.int64]:
        """(N,) tokens that are stored with them."""
        return np.where(self.shared == NOT_SHARED, self.lengths, 0)


def write_rows(folder: Path, size: int) -> int:
    """An output of so many bytes of embeddings; how many rows they are."""
    rows = Rows.of(draw_lengths(size))
    _write_output(folder, make_job(DIM), rows)
    return len(rows.lengths)


def write_referring(folder: Path, size: int) -> int:
    """As many rows, of which a part refers to embeddings that are stored once; how many refer."""
    draw, lengths = np.random.default_rng(1), draw_lengths(size)
    shared = np.full(len(lengths), NOT_SHARED)
    places = np.flatnonzero(draw.random(len(lengths)) < REFERRING)
    once = lengths[: max(1, len(places) // EQUAL)]
    shared[places] = draw.integers(len(once), size=len(places))
    is_own = shared == NOT_SHARED
    keys = _make_keys(np.where(is_own, len(once) + np.arange(len(lengths)), shared))
    plain = replace(make_job(DIM), has_keys=True)
    job = replace(plain, identity=plain.identity | {"duplicates": "referenced"})
    _write_output(folder / SHARED, plain, Rows.of(once, _make_keys(np.arange(len(once)))))
    _write_output(folder, job, Rows(lengths=np.where(is_own, lengths, once[shared]), shared=shared, keys=keys))
    return len(places)


def _make_keys(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(N, 16) keys that are equal where numbers are."""
    return np.stack([numbers, numbers], axis=1).astype("<i8").view(np.uint8).reshape(-1, KEY.type.byte_width)


def _write_output(folder: Path, job: FrozenJob, rows: Rows) -> None:
    """An output in shards as the pipeline cuts them."""
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0)).half()
    records, first = [], 0
    for part in cut_by_size(rows.own * DIM * 2, SHARD_BYTES):
        records.append(_write_shard(folder, job, pool, rows.take(part), first))
        first += len(rows.lengths[part])
    finish(folder, job, records)


def draw_lengths(size: int) -> NDArray[np.int64]:
    """(N,) tokens of rows that are so many bytes together, and at least two."""
    draw = np.random.default_rng(0)
    tokens = np.minimum(SHORTEST + draw.exponential(TAIL, size // (SHORTEST * DIM * 2) + 2), LONGEST).astype(np.int64)
    count = int(np.searchsorted(np.cumsum(tokens) * DIM * 2, size))
    return tokens[: max(2, count)]


def make_job(dim: int) -> FrozenJob:
    """The job of an output without a recipe."""
    identity = {"storage_dtype": STORAGE, "dtype": "bfloat16", "max_length": 512, "text_column": "caption"}
    return FrozenJob(identity=identity | {"recipe": None}, rows_per_shard=1, dim=dim, schema=schema_to_text(KEPT))


def _write_shard(folder: Path, job: FrozenJob, pool: torch.Tensor, rows: Rows, first: int) -> UnitRecord:
    """One shard, in row groups as the pipeline cuts them."""
    file, count, tokens = ShardFile(KEPT, job), len(rows.lengths), int(rows.lengths.sum())
    for group in cut_by_size(rows.own * job.dim * 2, ROW_GROUP_BYTES, GROUP_ROWS):
        file.write(list(_make_rows(pool, rows.take(group), first + group.start, job).columns))
    name = name_shard(SOURCE, first, f"{first:016x}")
    counts = Counts(input_rows=count, captions=count, encoded=count, tokens=tokens, size=0)
    record = UnitRecord(name=name, source=SOURCE, first_row=first, content="0" * 64, counts=counts)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(file.finish(record))
        os.fsync(stream.fileno())
    return record.with_size(path.stat().st_size)


def _make_rows(pool: torch.Tensor, rows: Rows, first: int, job: FrozenJob) -> pa.Table:
    count, total = len(rows.lengths), int(rows.own.sum()) * job.dim
    start = int(np.random.default_rng(first).integers(max(1, len(pool) - total)))
    values = pool[start : start + total] if total <= len(pool) - start else pool.repeat(-(-total // len(pool)))[:total]
    ids = [f"{number:09d}" for number in range(first, first + count)]
    kept = pa.table({"id": ids, "caption": [f"caption {number}" for number in ids]}, schema=KEPT)
    keys = CaptionKeys(
        source=SOURCE, rows=np.arange(first, first + count), caption_indices=np.zeros(count, dtype=np.int32)
    )
    return build_table(
        kept,
        keys,
        Embeddings.from_lengths(values.view(-1, job.dim), torch.from_numpy(rows.own)),
        storage=STORAGE,
        truncated=np.zeros(count, dtype=bool),
        errors=[None] * count,
        content_keys=rows.keys,
        stored=StoredRows(tokens=(rows.lengths - rows.own).astype(np.int32), values={}, shared=rows.shared),
        has_references=job.has_references,
    )


def write_links(folder: Path, shards: int, rows: int) -> None:
    """An output of so many shards of so many rows of one token each: hard links to one file."""
    job, pool = make_job(8), torch.zeros(1 << 17, dtype=torch.float16)
    record = _write_shard(folder, job, pool, Rows.of(np.ones(rows, dtype=np.int64)), 0)
    records = [record]
    for number in range(1, shards):
        first = number * rows
        name = name_shard(SOURCE, first, f"{first:016x}")
        os.link(folder / record.name, folder / name)
        records.append(UnitRecord(name=name, source=SOURCE, first_row=first, content="0" * 64, counts=record.counts))
    finish(folder, job, records)


def finish(folder: Path, job: FrozenJob, records: Sequence[UnitRecord]) -> None:
    """The job's file, the manifest, and the mark that all is there."""
    (folder / JOB).parent.mkdir(parents=True, exist_ok=True)
    (folder / JOB).write_bytes(job.to_json())
    table = pa.Table.from_pylist([record.to_row() for record in records], SCHEMA)
    manifest = to_parquet([table], SCHEMA)
    (folder / MANIFEST).write_bytes(manifest)
    success = {"manifest_sha256": hashlib.sha256(manifest).hexdigest(), "totals": {}}
    (folder / SUCCESS).write_text(json.dumps(success))


def list_files(folder: Path) -> Iterator[Path]:
    """All files below a folder."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
