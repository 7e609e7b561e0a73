"""A shard written anew with the bytes of embeddings as they are: of other rows, another source, or other columns.

R rows of a row group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.actors.shards import DIED
from pipelines.commit.counts import Counts
from pipelines.commit.records import UnitRecord
from pipelines.commit.shard_file import (
    BYTES,
    GROUP_ROWS,
    ROW_GROUP_BYTES,
    ContentHash,
    ShardFile,
    count_rows,
    cut_by_size,
)
from pipelines.derive.pieces import Piece
from pipelines.inputs.columns.conform import conform
from pipelines.inputs.sources import SourceFile
from pipelines.job import FrozenJob
from t5enc.shards.shared import find_references
from t5enc.storage import NUM_BYTES, PREFIX, SHARED_ROW, usual_token_bytes
from t5enc.storage.schema import KEYS, measure_values

# Larger ones are written to a temporary file first.
IN_MEMORY_BYTES = 1 << 30
SOURCE, ROW, TOKENS, ERROR = (f"{PREFIX}{name}" for name in ("source", "row", "num_tokens", "error"))


def rewrite(piece: Piece, job: FrozenJob) -> tuple[UnitRecord, Any]:
    """The record and the bytes of a piece's shard as the job has it; OutputError where it cannot be read."""
    with piece.origin.open(piece.record) as file:
        return _rewrite(piece, job, file)


def _rewrite(piece: Piece, job: FrozenJob, file: pq.ParquetFile) -> tuple[UnitRecord, Any]:
    keys = _name_source(file.read(columns=list(KEYS)).filter(pa.array(piece.choose())), piece.source)
    in_memory = not piece.origin.job.has_references and piece.record.counts.size <= IN_MEMORY_BYTES
    shard, content = ShardFile(job.kept_schema, job, in_memory=in_memory), ContentHash(keys)
    counts = Counts(input_rows=pc.count_distinct(keys[ROW]).as_py(), mended=_count_mended(piece))
    for rows in _gather(_fit(table, piece, shard.schema) for table in _read_chosen(piece, file)):
        shard.write(rows.columns)
        content.add(rows)
        counts += _count(rows)
    record = UnitRecord(
        name=piece.name_in(job),
        source=piece.source,
        first_row=piece.record.first_row,
        content=content.hexdigest(),
        counts=counts,
    )
    return record, shard.finish(record)


def _count_mended(piece: Piece) -> int:
    """Which texts were mended no row tells: they are counted where all rows stay."""
    return piece.record.counts.mended if piece.packed is None else 0


def _count(rows: pa.Table) -> Counts:
    died = pc.sum(pc.equal(rows[ERROR], DIED)).as_py() or 0
    return replace(count_rows(rows), died=died, longest=pc.max(rows[TOKENS]).as_py() or 0)


def _read_chosen(piece: Piece, file: pq.ParquetFile) -> Iterator[pa.Table]:
    """The chosen rows of each row group that has some, with an embedding in each that refers to one."""
    chosen, start = piece.choose(), 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        here = chosen[start : start + count]
        if here.any():
            table = file.read_row_group(group)
            yield from _embed(piece, start, table if here.all() else table.filter(pa.array(here)))
        start += count
    if not chosen.any():
        yield file.schema_arrow.empty_table()


def _embed(piece: Piece, start: int, table: pa.Table) -> Iterator[pa.Table]:
    """A table in parts that are not too large with the embeddings that their rows refer to."""
    if SHARED_ROW.name not in table.column_names:
        yield table
        return
    token_bytes = usual_token_bytes(piece.origin.job.storage_dtype, piece.origin.job.dim)
    sizes = (table[TOKENS].to_numpy().astype(np.int64) * token_bytes).astype(np.int64)
    for part in cut_by_size(sizes, ROW_GROUP_BYTES, GROUP_ROWS):
        yield _fill(piece, start, table.slice(part.start, part.stop - part.start))


def _fill(piece: Piece, start: int, table: pa.Table) -> pa.Table:
    shared = piece.origin.folder.shared
    found = find_references(piece.origin.path(piece.record), start, table, None if shared is None else shared.rows)
    if found is None:
        return table
    referring, references, rows = found
    buffers, inverse = rows.read_values(references)
    is_referring = np.zeros(len(table), bool)
    is_referring[referring] = True
    values = pa.array([buffers[place].tobytes() for place in inverse.tolist()], pa.large_binary())
    filled = pc.replace_with_mask(table[BYTES].combine_chunks(), pa.array(is_referring), values)
    return _replace(table, BYTES, filled)


def _fit(table: pa.Table, piece: Piece, schema: pa.Schema) -> pa.Table:
    """The same rows in the columns of a job's shards: null where there was none."""
    table = _name_source(table.combine_chunks(), piece.source)
    if NUM_BYTES.name in table.column_names:
        table = _replace(table, NUM_BYTES.name, measure_values(table[BYTES]))
    source = SourceFile(source=piece.record.source, path=piece.record.name, size=0, partitions=())
    columns = [
        conform(_join(table[field.name]), field, source)
        if field.name in table.column_names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _join(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _name_source(table: pa.Table, source: str) -> pa.Table:
    return _replace(table, SOURCE, pa.array([source], pa.string()).take(pa.array(np.zeros(len(table), np.int64))))


def _replace(table: pa.Table, name: str, values: Any) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), values)


def _gather(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in row groups that are neither small nor large, each of one chunk."""
    pending: list[pa.Table] = []
    for table in tables:
        together = [*pending, table]
        if pending and (
            sum(one[BYTES].nbytes for one in together) > ROW_GROUP_BYTES or sum(map(len, together)) > GROUP_ROWS
        ):
            yield _concatenate(pending)
            together = [table]
        pending = together
    yield _concatenate(pending)


def _concatenate(tables: list[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).combine_chunks()
