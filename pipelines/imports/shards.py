"""A unit of an import as a shard: the rows of its files, read, checked and committed.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.commit.protocol import commit_shard
from pipelines.commit.records import UnitRecord
from pipelines.commit.shard_file import GROUP_ROWS, ROW_GROUP_BYTES, ContentHash, ShardFile, count_rows, cut_by_size
from pipelines.imports.cache import CacheReader, Entry
from pipelines.job import FrozenJob
from pipelines.plan.units import Unit
from pipelines.stores.store import Store
from t5enc.embeddings import Embeddings
from t5enc.storage import CaptionKeys, build_keys, build_table, working_dtype


def commit_unit(
    store: Store, job: FrozenJob, unit: Unit, entries: Sequence[Entry], reader: CacheReader, folder: Path
) -> UnitRecord:
    """Write the shard of a unit; a file that cannot be read is a row with the reason."""
    rows, errors = [], []
    for entry in entries:
        values, error = read_rows(reader, folder / entry.file, job, entry.place)
        rows.append(values)
        errors.append(error)
    kept = pa.table({name: [getattr(entry, _FIELDS[name]) for entry in entries] for name in _FIELDS}, job.kept_schema)
    table = make_table(job, unit, rows, errors)
    shard, content = ShardFile(job.kept_schema, job), ContentHash(build_keys(make_keys(unit)))
    content.add(table)
    lengths = np.array([len(values) for values in rows], np.int64)
    token_bytes = job.dim * working_dtype(job.storage_dtype).itemsize
    for group in cut_by_size(lengths * token_bytes + 1, ROW_GROUP_BYTES, GROUP_ROWS):
        size = group.stop - group.start
        shard.write([*kept.slice(group.start, size).columns, *table.slice(group.start, size).columns])
    record = UnitRecord(
        name=unit.name,
        source=unit.source,
        first_row=unit.first_row,
        content=content.hexdigest(),
        counts=replace(count_rows(table), input_rows=len(rows), longest=int(lengths.max(initial=0))),
    )
    return commit_shard(store, record, shard.finish(record))


_FIELDS = {"caption": "text", "stem": "stem", "file": "file"}


def read_rows(reader: CacheReader, path: Path, job: FrozenJob, place: int = 0) -> tuple[Tensor, str | None]:
    """The rows (L, M) of a file, or none and the reason."""
    dtype, longest = working_dtype(job.storage_dtype), job.identity["max_length"]
    empty = torch.empty(0, job.dim, dtype=dtype)
    try:
        values = reader.read(path, place)
    except (ValueError, OSError) as error:
        return empty, f"the cache's file cannot be read: {error}"
    if values.dtype != dtype or values.shape[1:] != (job.dim,) or not 0 < len(values) <= longest:
        return empty, (
            f"expected up to {longest} rows of {job.dim} {job.storage_dtype}, got {tuple(values.shape)} {values.dtype}"
        )
    return values, None


def make_keys(unit: Unit) -> CaptionKeys:
    """One caption a row."""
    rows = np.arange(unit.first_row, unit.first_row + unit.num_rows)
    return CaptionKeys(source=unit.source, rows=rows, caption_indices=np.zeros(unit.num_rows, np.int32))


def make_table(job: FrozenJob, unit: Unit, rows: Sequence[Tensor], errors: Sequence[str | None]) -> pa.Table:
    """A unit's rows without what is kept; those of the full length may have been cut, and are said to be."""
    empty = torch.empty(0, job.dim, dtype=working_dtype(job.storage_dtype))
    lengths = [len(values) for values in rows]
    return build_table(
        pa.table({}),
        make_keys(unit),
        Embeddings.from_lengths(torch.cat([empty, *rows]), lengths),
        storage=job.storage_dtype,
        truncated=np.array(lengths) == job.identity["max_length"],
        errors=errors,
    )
