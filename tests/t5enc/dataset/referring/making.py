"""A plain output as one whose equal embeddings are stored once: the same rows, of which some refer to `shared/`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit.counts import Counts
from pipelines.commit.records import UnitRecord
from pipelines.commit.shard_file import ShardFile
from pipelines.job import FrozenJob
from t5enc.output import open_output
from t5enc.storage import KEY, PREFIX, SHARED_ROW, list_columns
from t5enc.storage.layout import JOB, NULL, RECORD_KEY, SHARED, SUCCESS, name_shard
from tests.t5enc.dataset.outputs import finish

BYTES = f"{PREFIX}bytes"
UNUSED = b"unused"


def often(place: int) -> bool:
    """Of three rows, two."""
    return place % 3 != 1


def refer(folder: Path, chooses: Callable[[int], bool] = often, *, shard_rows: int = 4) -> int:
    """Have the rows with an embedding that are chosen by their places in the output refer; how many there are.

    The first row of `shared/` is one that no row refers to; then each distinct value comes once.
    """
    job = FrozenJob.from_json((folder / JOB).read_bytes())
    referring = replace(job, identity=job.identity | {"duplicates": "referenced"}, has_keys=True)
    shared = _Shared(replace(job, has_keys=True))
    is_finished, records, place, count = (folder / SUCCESS).exists(), [], 0, 0
    for path in (folder / name for name in open_output(folder, partial=True).shards):
        file = pq.ParquetFile(path)
        groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
        names = [name for name in file.schema_arrow.names if not name.startswith(PREFIX)]
        written = ShardFile(file.schema_arrow.remove_metadata().empty_table().select(names).schema, referring)
        for group in groups:
            chosen = [chooses(place + row) for row in range(len(group))]
            place += len(group)
            rows = [shared.add(group.slice(row, 1)) if chosen[row] else None for row in range(len(group))]
            count += len(rows) - rows.count(None)
            table = _point(_with_keys(group), rows)
            written.write([table[name] for name in (*names, *_list_names(referring))])
        record = UnitRecord.from_json(file.metadata.metadata[RECORD_KEY])
        data = bytes(written.finish(record))
        path.write_bytes(data)
        records.append(record.with_size(len(data)))
    shared.write(folder / SHARED, shard_rows)
    (folder / JOB).write_bytes(referring.to_json())
    if (folder / NULL).exists():
        null = (folder / NULL).read_bytes()
        (folder / NULL).write_bytes(null.replace(job.fingerprint.encode(), referring.fingerprint.encode()))
    if is_finished:
        finish(folder, records)
    return count


def _list_names(job: FrozenJob) -> list[str]:
    schema = list_columns(job.storage_dtype, has_keys=job.has_keys, has_references=job.has_references)
    return list(schema.names)


def _with_keys(rows: pa.Table) -> pa.Table:
    """Rows with a key by their values."""
    if KEY.name in rows.column_names:
        return rows
    values = rows[BYTES].to_pylist()
    keys = [None if value is None else hashlib.sha256(value).digest()[:16] for value in values]
    return rows.append_column(KEY, pa.array(keys, KEY.type))


def _point(rows: pa.Table, shared: list[int | None]) -> pa.Table:
    """Rows without the bytes that are elsewhere."""
    values = [value if other is None else None for value, other in zip(rows[BYTES].to_pylist(), shared, strict=True)]
    found = rows.append_column(SHARED_ROW, pa.array(shared, SHARED_ROW.type))
    found = found.set_column(found.schema.get_field_index(BYTES), BYTES, pa.array(values, pa.large_binary()))
    if (name := f"{PREFIX}num_bytes") in found.column_names:
        sizes = [0 if value is None else len(value) for value in values]
        field = found.schema.field(name)
        found = found.set_column(found.schema.get_field_index(name), field, pa.array(sizes, pa.int64()))
    return found


class _Shared:
    """The rows of `shared/` while they are collected."""

    def __init__(self, job: FrozenJob) -> None:
        self.job = job
        self.rows: list[pa.Table] = []
        self.places: dict[bytes, int] = {}

    def add(self, row: pa.Table) -> int | None:
        """The number of a row's value; None for one without."""
        value = row[BYTES][0].as_py()
        if value is None:
            return None
        if not self.rows:
            self.rows.append(row)
        if value not in self.places:
            self.places[value] = len(self.rows)
            self.rows.append(row)
        return self.places[value]

    def write(self, folder: Path, shard_rows: int) -> None:
        """A whole output."""
        records = []
        for first in range(0, len(self.rows), shard_rows):
            table = _with_keys(pa.concat_tables(self.rows[first : first + shard_rows]))
            written = ShardFile(pa.schema([]), self.job)
            for start in range(0, len(table), 3):
                written.write([table[name].slice(start, 3) for name in _list_names(self.job)])
            name = name_shard("distinct", first, f"{first:016x}")
            record = UnitRecord(
                name=name, source="distinct", first_row=first, content="", counts=Counts(captions=len(table))
            )
            data = bytes(written.finish(record))
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            records.append(record.with_size(len(data)))
        (folder / JOB).parent.mkdir(parents=True, exist_ok=True)
        (folder / JOB).write_bytes(self.job.to_json())
        finish(folder, records)
