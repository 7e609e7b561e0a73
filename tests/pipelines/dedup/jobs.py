"""Jobs on captions of which some come again in other files, and what a job without dedup makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import EncodeJob
from t5enc.checkpoint.builtin import sample_captions

ROWS = 7
# Every third caption comes again in another file, in another order, one of them within its unit, too.
TEXTS = sample_captions()[:14]
FILES = {"a": TEXTS[:7], "b": [TEXTS[0], *TEXTS[7:12], TEXTS[7]], "c": [*TEXTS[12:], TEXTS[3], TEXTS[3], TEXTS[0], ""]}


def write_files(folder: Path, files: dict[str, Sequence[str | None]] | None = None) -> Path:
    """A Parquet file of captions for each name."""
    folder.mkdir(exist_ok=True)
    for name, texts in (files or FILES).items():
        table = pa.table({"id": list(range(len(texts))), "caption": pa.array(texts, pa.string())})
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def make_job(inputs: Path, output: Path, **options: object) -> EncodeJob:
    """On two cores the same bits in any company."""
    usual = {"model": "builtin:tiny", "storage_dtype": "float32", "rows_per_shard": 4, "deterministic": True}
    return EncodeJob.from_mapping({"inputs": [str(inputs)], "output": str(output)} | usual | options)
