"""Units of captions that are encoded into shards, and made again of the rows of those: MB for each CPU second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.conditions.corpus import find_tokenizer
from pipelines.actors.captions import CaptionBatch
from pipelines.actors.kept import Kept
from pipelines.actors.shard_writer import ShardWriter
from pipelines.actors.shards import PreparedUnit, encode_unit, prepare_unit
from pipelines.job import FrozenJob, schema_to_text
from pipelines.plan.units import Unit
from pipelines.reuse.copying import EarlierRows
from pipelines.reuse.earlier import find_output, list_output
from pipelines.stores.store import open_store
from t5enc import TextEncoder
from t5enc.storage.layout import JOB

ROUNDS = 5


def measure_copying(folder: Path, model: str, texts: Sequence[str], units: int) -> dict[str, Any]:
    """Encode units of captions into an output, and then make another of the same rows by copying."""
    encoder = TextEncoder.from_pretrained(model, tokenizer=find_tokenizer(None), dtype="float32", device="cpu")
    encoder.warm_up()
    job = freeze(encoder)
    prepared = [prepare(encoder, job, [f"{text} {unit}" for text in texts], unit) for unit in range(units)]
    store = open_store(str(folder / "old"))
    store.create(JOB, job.to_json())
    encoding = clock(lambda: write_all(prepared, job, str(folder / "old"), lambda shard: encode(encoder, shard)))
    earlier = EarlierRows([list_output(find_output(str(folder / "old")))], job.storage_dtype)
    earlier.open()
    rows = clock(lambda: [copy_rows(earlier, shard) for shard in open_writers(prepared, job)])
    outputs = [str(folder / f"copy{number}") for number in range(ROUNDS)]
    taken = [clock(partial(write_all, prepared, job, output, partial(copy, encoder, earlier))) for output in outputs]
    serialized = [clock(partial(make_all, prepared, job, partial(copy, encoder, earlier))) for _ in range(ROUNDS)]
    tokens = sum(sum(unit.rows) for unit in prepared)
    megabytes = tokens * job.dim * 2 / 1e6
    return {
        "tokens": tokens,
        "megabytes": megabytes,
        "encoding_mb_a_second": megabytes / encoding,
        "reading_mb_a_second": megabytes / rows,
        "copying_mb_a_second": megabytes / min(serialized),
        "written_mb_a_second": megabytes / min(taken),
        "times_faster": encoding / min(taken),
    }


def freeze(encoder: TextEncoder) -> FrozenJob:
    """A job of this encoder whose captions are kept."""
    identity = {"weights": "benchmark", "dtype": "float32", "storage_dtype": "float16", "max_length": 512}
    schema = schema_to_text(pa.schema([("caption", pa.string())]))
    return FrozenJob(identity=identity, rows_per_shard=1, dim=encoder.dim, schema=schema, has_keys=True)


def prepare(encoder: TextEncoder, job: FrozenJob, texts: Sequence[str], number: int) -> PreparedUnit:
    """A unit of these captions, tokenized."""
    captions = pa.table({"caption": texts})
    batch = CaptionBatch(
        first_row=0,
        num_rows=len(texts),
        columns=Kept(schema=captions.schema, captions=captions, beside=captions.select([])),
        rows=np.arange(len(texts)),
        caption_indices=np.zeros(len(texts), np.int32),
        texts=list(texts),
        reasons=[None] * len(texts),
    )
    unit = Unit(source="a.parquet", first_row=number * len(texts), num_rows=len(texts), id=f"{number:016x}")
    return prepare_unit(unit, batch, encoder)


def open_writers(prepared: Sequence[PreparedUnit], job: FrozenJob) -> list[ShardWriter]:
    """A shard for each unit."""
    return [ShardWriter(unit, job, unit.rows) for unit in prepared]


def write_all(
    prepared: Sequence[PreparedUnit], job: FrozenJob, output: str, fill: Callable[[ShardWriter], None]
) -> None:
    """The shards of units into an output."""
    store = open_store(output)
    for shard in open_writers(prepared, job):
        fill(shard)
        record, data = shard.finish()
        store.create(record.name, data)


def make_all(prepared: Sequence[PreparedUnit], job: FrozenJob, fill: Callable[[ShardWriter], None]) -> None:
    """The shards of units, in memory."""
    for shard in open_writers(prepared, job):
        fill(shard)
        shard.finish()


def encode(encoder: TextEncoder, shard: ShardWriter) -> None:
    """Compute a shard's rows."""
    for piece in shard.pieces:
        shard.add(piece, encode_unit(encoder, shard.prepared, torch.float16, piece))


def copy_rows(earlier: EarlierRows, shard: ShardWriter) -> None:
    """Look a shard's rows up, and read them."""
    for piece in shard.pieces:
        earlier.copy(earlier.look_up(shard.hash_prompts(piece), np.array(shard.prepared.rows[piece], np.int64)))


def copy(encoder: TextEncoder, earlier: EarlierRows, shard: ShardWriter) -> None:
    """Copy a shard's rows, all of which are there."""
    for piece in shard.pieces:
        keys = shard.hash_prompts(piece)
        copied = earlier.copy(earlier.look_up(keys, np.array(shard.prepared.rows[piece], np.int64)))
        assert copied.is_there.all()
        nothing = encode_unit(encoder, shard.prepared, torch.float16, piece, chosen=np.zeros(len(keys), bool))
        shard.add(piece, nothing, keys, copied)


def clock(work: Callable[[], object]) -> float:
    """The CPU seconds of a call, in all of its threads."""
    started = time.process_time()
    work()
    return time.process_time() - started
