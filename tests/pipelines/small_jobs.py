"""Small jobs, planned files and real shards of them, for tests that need no model and no input files.

A caption says where it comes from (`a.parquet/1/0` is row 0 of version 1 of a.parquet), and its embedding is its
row, so that a mix-up shows.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipelines.actors.captions import CaptionBatch
from pipelines.actors.kept import Kept
from pipelines.actors.shard_writer import ShardWriter
from pipelines.actors.shards import DIED, PreparedUnit
from pipelines.commit.records import UnitRecord
from pipelines.inputs.sources import SourceFile, read_partitions
from pipelines.job import FrozenJob, schema_to_text
from pipelines.plan.density import Density
from pipelines.plan.units import PlannedFile, Unit
from t5enc.embeddings import Embeddings
from t5enc.storage import PREFIX, working_dtype
from t5enc.text.prompts import Prompt
from t5enc.text_encoder import EncodedTexts

DIM = 4
KEPT = pa.schema([("caption", pa.string())])


def make_job(
    *,
    rows_per_shard: int = 2,
    captions_per_shard: int | None = None,
    generation: int = 1,
    dim: int = DIM,
    **identity: Any,
) -> FrozenJob:
    """A frozen job; `identity` changes what makes it this job."""
    usual = {
        "tokenizer": "bytes",
        "text_column": "caption",
        "caption_choice": "all",
        "dtype": "float32",
        "storage_dtype": "float16",
        "max_length": 512,
    }
    return FrozenJob(
        identity=usual | identity,
        rows_per_shard=rows_per_shard,
        captions_per_shard=captions_per_shard,
        dim=dim,
        schema=schema_to_text(KEPT),
        generation=generation,
        record={"device": "cpu"},
    )


def plan_file(
    source: str = "a.parquet",
    rows: int = 4,
    version: int = 1,
    groups: tuple[int, ...] = (),
    densities: tuple[Density, ...] = (),
) -> PlannedFile:
    """A file as its footer would describe it; another version is another content."""
    file = SourceFile(source=source, path=f"/in/{source}", size=1000, partitions=read_partitions(source))
    largest = max(groups or (rows,))
    return PlannedFile(file=file, num_rows=rows, largest_group=largest, digest=str(version), densities=densities)


def caption(source: str, version: int, row: int) -> str:
    """What the caption of a row says."""
    return f"{source}/{version}/{row}"


def keep(table: pa.Table) -> Kept:
    """Columns of which each caption has a row of its own."""
    return Kept(schema=table.schema, captions=table, beside=table.select([]))


def make_shard(prepared: PreparedUnit, encoded: EncodedTexts, job: FrozenJob) -> tuple[UnitRecord, bytes]:
    """The record and the bytes of a unit's shard whose captions are encoded together."""
    writer = ShardWriter(prepared, job, [0] * len(prepared.errors))
    writer.add(slice(0, len(prepared.errors)), encoded)
    record, data = writer.finish()
    return record, bytes(data)


def make_unit_shard(
    job: FrozenJob, unit: Unit, version: int = 1, *, died: Collection[int] = (), rounding: int = 0
) -> tuple[UnitRecord, bytes]:
    """A unit's record and shard; `died` rows have no embedding, `rounding` is another last bit of the others."""
    return make_shard(prepare_small(unit, version, died=died), embed(job, unit, rounding), job)


def embed(job: FrozenJob, unit: Unit, rounding: int = 0) -> EncodedTexts:
    """The embeddings of a unit's rows, of a token each."""
    rows = torch.arange(unit.first_row, unit.first_row + unit.num_rows)
    values = rows.to(working_dtype(job.storage_dtype))[:, None].repeat(1, DIM) + rounding / 64
    return EncodedTexts(Embeddings.from_lengths(values, torch.ones(len(rows), dtype=torch.int64)))


def prepare_small(unit: Unit, version: int = 1, *, died: Collection[int] = ()) -> PreparedUnit:
    """A unit whose rows have a caption of one token each: the row's number, so that equal keys are equal rows."""
    rows = np.arange(unit.first_row, unit.first_row + unit.num_rows)
    texts: list[str | None] = [caption(unit.source, version, row) for row in rows]
    batch = CaptionBatch(
        first_row=unit.first_row,
        num_rows=unit.num_rows,
        columns=keep(pa.table({"caption": texts}, schema=KEPT)),
        rows=rows,
        caption_indices=np.zeros(len(rows), np.int32),
        texts=texts,
        reasons=[None] * len(rows),
    )
    return PreparedUnit(
        unit=unit,
        batch=batch,
        prompts=[Prompt.of(np.array([row], np.int32)) for row in rows],
        truncated=np.zeros(len(rows), bool),
        lengths=np.ones(len(rows), np.int64),
        errors=[DIED if row in died else None for row in rows],
    )


@cache
def read_captions_of(data: bytes) -> tuple[str, ...] | None:
    """The captions of a shard in order, or None where the bytes are no shard."""
    try:
        return tuple(pq.read_table(pa.BufferReader(data), columns=["caption"])["caption"].to_pylist())
    except (OSError, pa.ArrowException):
        return None


@cache
def read_keys_of(data: bytes) -> tuple[tuple[str, int], ...]:
    """Source and row of a shard's captions."""
    table = pq.read_table(pa.BufferReader(data), columns=[f"{PREFIX}source", f"{PREFIX}row"])
    return tuple(zip(*(column.to_pylist() for column in table.columns), strict=True))
