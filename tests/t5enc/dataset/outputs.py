"""Outputs of many shapes, with shards of the pipeline's own writer, and the same shards as other tools write them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.actors import shard_writer
from pipelines.actors.captions import CaptionBatch
from pipelines.actors.shards import PreparedUnit
from pipelines.commit.records import SCHEMA, UnitRecord
from pipelines.job import FrozenJob
from pipelines.plan.units import Unit
from t5enc.embeddings import Embeddings
from t5enc.recipes.conditioning import Conditioning
from t5enc.storage import working_dtype
from t5enc.storage.layout import JOB, MANIFEST, NULL, SUCCESS
from t5enc.storage.null_prompt import serialize_null
from t5enc.text.prompts import Prompt
from t5enc.text_encoder import EncodedTexts
from tests.pipelines.small_jobs import DIM, keep, make_job, make_shard


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Captions of consecutive rows of a source: tokens of each caption, None for one that failed.

    `rows` are the input rows that they are of, one after the other by default.
    """

    lengths: Sequence[int | None]
    source: str = "a.parquet"
    first_row: int = 0
    rows: Sequence[int] = field(default=())
    number: float | None = None
    """What all of its embeddings consist of, where they are not drawn by chance."""

    @property
    def caption_rows(self) -> list[int]:
        """The input row of each caption."""
        return list(self.rows) or [self.first_row + place for place in range(len(self.lengths))]

    @property
    def caption_indices(self) -> list[int]:
        """Which caption of its row each is."""
        rows = self.caption_rows
        return [rows[: place + 1].count(row) - 1 for place, row in enumerate(rows)]


PLACE = pa.struct({"x": pa.int16(), "y": pa.string()})


def write_output(
    folder: Path,
    shards: Sequence[Shard],
    *,
    storage: str = "float16",
    dim: int = DIM,
    group_bytes: int = 300,
    conditioning: Conditioning | None = None,
    is_finished: bool = True,
    seed: int = 0,
    **identity: Any,
) -> list[str]:
    """A folder as a job leaves it, with columns of many kinds, and the names of its shards; `identity` is its job's."""
    identity["storage_dtype"] = storage
    if conditioning is not None:
        identity["recipe"] = conditioning.recipe.to_mapping()
    job = make_job(dim=dim, **identity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "ROW_GROUP_BYTES", group_bytes)
        made = [_write_shard(shard, job, seed + place) for place, shard in enumerate(shards)]
    for record, data in made:
        (folder / record.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / record.name).write_bytes(data)
    (folder / JOB).parent.mkdir(parents=True, exist_ok=True)
    (folder / JOB).write_bytes(job.to_json())
    if conditioning is not None:
        null = serialize_null(conditioning, dim=dim, dtype=working_dtype(storage), fingerprint=job.fingerprint)
        (folder / NULL).write_bytes(null)
    if is_finished:
        finish(folder, [record.with_size(len(data)) for record, data in made])
    return [record.name for record, _ in made]


def finish(folder: Path, records: Sequence[UnitRecord]) -> None:
    """The manifest of these shards, and the mark that they are all."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([record.to_row() for record in records], SCHEMA), stream)
    (folder / MANIFEST).write_bytes(stream.getvalue())
    (folder / SUCCESS).write_text(json.dumps({"manifest_sha256": hashlib.sha256(stream.getvalue()).hexdigest()}))


def _write_shard(shard: Shard, job: FrozenJob, seed: int) -> tuple[UnitRecord, bytes]:
    count, rows = len(shard.lengths), shard.caption_rows
    texts = [f"caption {row} of {shard.source}" for row in rows]
    kept = pa.table(
        {
            "caption": pa.array(texts, pa.string()),
            "id": pa.array([1000 * seed + place for place in range(count)], pa.int64()),
            "tags": pa.array([["x"] * (place % 3) or None for place in range(count)], pa.list_(pa.string())),
            "place": pa.array([{"x": place, "y": str(place)} for place in range(count)], PLACE),
            "moment": pa.array([place * 10**9 if place % 2 else None for place in range(count)], pa.timestamp("us")),
            "picture": pa.array([bytes([place % 256]) * (place % 5) for place in range(count)], pa.binary()),
        }
    )
    prepared = PreparedUnit(
        unit=Unit(source=shard.source, first_row=min(rows, default=0), num_rows=len(set(rows)), id=f"{seed:016x}"),
        batch=CaptionBatch(
            first_row=min(rows, default=0),
            num_rows=len(set(rows)),
            columns=keep(kept),
            rows=np.array(rows, np.int64),
            caption_indices=np.array(shard.caption_indices, np.int32),
            texts=list(texts),
            reasons=[None] * count,
        ),
        prompts=[Prompt.of(np.ones(length or 1, np.int32)) for length in shard.lengths],
        truncated=np.zeros(count, bool),
        lengths=np.array([length or 0 for length in shard.lengths], np.int64),
        errors=["it failed" if length is None else None for length in shard.lengths],
    )
    lengths = [length or 0 for length in shard.lengths]
    values = torch.randn(sum(lengths), job.dim, generator=torch.Generator().manual_seed(seed))
    if shard.number is not None:
        values.fill_(shard.number)
    embeddings = Embeddings.from_lengths(values.to(working_dtype(job.storage_dtype)), lengths)
    return make_shard(prepared, EncodedTexts(embeddings), job)


def rewrite(path: Path, **options: Any) -> None:
    """A shard as another tool writes the same rows."""
    pq.write_table(pq.read_table(path), path, **options)


# Tools that write Parquet, by what becomes of the bytes.
OTHERS: dict[str, dict[str, Any]] = {
    "compressed": {"compression": "zstd"},
    "of many pages": {"compression": "none", "use_dictionary": False, "data_page_size": 1, "write_batch_size": 2},
    "with a dictionary": {"compression": "none", "use_dictionary": True},
    "of one row group": {"compression": "none", "use_dictionary": False, "row_group_size": 1 << 20},
    "by lengths first": {
        "compression": "none",
        "use_dictionary": False,
        "column_encoding": {"text_embedding_bytes": "DELTA_LENGTH_BYTE_ARRAY"},
    },
    "of second pages": {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
}
