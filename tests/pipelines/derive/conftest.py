"""Two small outputs to derive others from; both have a source of one name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob
from t5enc.checkpoint.builtin import sample_captions
from tests.pipelines.in_process import encode_in_process

CAPTIONS = sample_captions()[:40]
Encode = Callable[..., Path]


@pytest.fixture
def encode(tmp_path: Path) -> Encode:
    """Makes an output of tables by the names of their files."""

    def run(name: str, tables: dict[str, pa.Table], **options: Any) -> Path:
        folder = tmp_path / f"{name}_in"
        folder.mkdir(exist_ok=True)
        for file, table in tables.items():
            pq.write_table(table, folder / f"{file}.parquet")
        usual = {"model": "builtin:tiny", "deterministic": True, "rows_per_shard": 15}
        job = {"inputs": [str(folder)], "output": str(tmp_path / name)} | usual | options
        encode_in_process(EncodeJob.from_mapping(job))
        return tmp_path / name

    return run


def numbered(captions: list[str | None], first: int = 0) -> pa.Table:
    """Captions beside their numbers."""
    return pa.table({"caption": captions, "n": pa.array(range(first, first + len(captions)), pa.int32())})


@pytest.fixture
def one(encode: Encode) -> Path:
    return encode("one", {"b": numbered(CAPTIONS[30:], 30), "train-0": numbered([*CAPTIONS[:29], None])})


@pytest.fixture
def two(encode: Encode) -> Path:
    return encode("two", {"train-0": pa.table({"caption": CAPTIONS[5:20]}), "z": pa.table({"caption": CAPTIONS[:3]})})
