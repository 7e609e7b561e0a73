"""Small jobs that reuse earlier outputs: deterministic, in shards of thirty rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import EncodeJob, encode_parquet
from pipelines.progress.report import EncodeReport
from t5enc.checkpoint.builtin import sample_captions

CAPTIONS = [f"{caption} number {n}" for n in range(4) for caption in sample_captions()[:40]]


def write(folder: Path, *files: Sequence[str | None]) -> Path:
    """A folder of Parquet files with these captions each."""
    folder.mkdir(parents=True)
    for number, captions in enumerate(files):
        pq.write_table(pa.table({"caption": pa.array(captions, pa.string())}), folder / f"{number}.parquet")
    return folder


def make_job(inputs: Path, output: Path, *reuse: Path, **options: Any) -> EncodeJob:
    usual = {"model": "builtin:tiny", "deterministic": True, "rows_per_shard": 30, "reuse": [str(one) for one in reuse]}
    return EncodeJob.from_mapping({"inputs": [str(inputs)], "output": str(output)} | usual | options)


def encode(inputs: Path, output: Path, *reuse: Path, **options: Any) -> EncodeReport:
    return encode_parquet(make_job(inputs, output, *reuse, **options))


def list_shards(output: Path) -> list[Path]:
    """Its shards in order."""
    return sorted((output / "data").rglob("*.parquet"))
