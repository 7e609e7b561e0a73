"""Output folders as a job leaves them, written by hand."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from t5enc.embeddings import Embeddings
from t5enc.storage import METADATA_KEY, CaptionKeys, build_table, working_dtype
from t5enc.storage.layout import FORMAT_VERSION, JOB, MANIFEST, SUCCESS

DIM = 4
FAILED = "it failed"


def make_embeddings(lengths: Sequence[int], *, storage: str = "float32", seed: int = 0) -> Embeddings:
    """Embeddings with these numbers of tokens, in the working dtype of `storage`."""
    values = torch.randn(sum(lengths), DIM, generator=torch.Generator().manual_seed(seed))
    return Embeddings.from_lengths(values.to(working_dtype(storage)), lengths)


def make_table(
    captions: Sequence[str], embeddings: Embeddings, *, storage: str = "float32", failed: Sequence[int] = ()
) -> pa.Table:
    """A shard's rows; those of `failed` have no embedding."""
    count = len(captions)
    table = build_table(
        pa.table({"caption": pa.array(captions, pa.string())}),
        CaptionKeys(source="a.parquet", rows=np.arange(count), caption_indices=np.zeros(count, np.int32)),
        embeddings,
        storage=storage,
        truncated=np.zeros(count, dtype=bool),
        errors=[FAILED if index in failed else None for index in range(count)],
    )
    return table.replace_schema_metadata({METADATA_KEY: json.dumps({"storage_dtype": storage, "dim": DIM})})


def write_job(folder: Path, **identity: Any) -> None:
    """A job's settings, which make a folder its output."""
    settings = {"storage_dtype": "float32", "model": "builtin:tiny", "kept_columns": ["caption"], **identity}
    job = {"format": FORMAT_VERSION, "record": {"device": "cpu"}, "identity": settings, "rows_per_shard": 2, "dim": DIM}
    (folder / JOB).parent.mkdir(parents=True, exist_ok=True)
    (folder / JOB).write_text(json.dumps(job))


def write_shard(folder: Path, name: str, table: pa.Table) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)


def finish(folder: Path, names: Sequence[str]) -> None:
    """The manifest of these shards, and the mark that they are all."""
    stream = io.BytesIO()
    pq.write_table(pa.table({"name": pa.array(names, pa.string())}), stream)
    (folder / MANIFEST).write_bytes(stream.getvalue())
    success = {"manifest_sha256": hashlib.sha256(stream.getvalue()).hexdigest(), "totals": {"rows": 1234}}
    (folder / SUCCESS).write_text(json.dumps(success))
