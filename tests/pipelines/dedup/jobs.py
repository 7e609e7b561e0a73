"""Jobs on captions of which some come again in other files, and what a job without dedup makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipelines import EncodeJob
from pipelines.commands.fsck import check_output
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from tests.pipelines.in_process import encode_in_process

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


def make_job(inputs: Path, output: Path | str, **options: object) -> EncodeJob:
    """On two cores the same bits in any company."""
    usual = {"model": "builtin:tiny", "storage_dtype": "float32", "rows_per_shard": 4, "deterministic": True}
    return EncodeJob.from_mapping({"inputs": [str(inputs)], "output": str(output)} | usual | options)


def encode_plain(folder: Path, files: dict[str, Sequence[str | None]] | None = None) -> Path:
    """The output of a job without dedup."""
    encode_in_process(make_job(write_files(folder / "in", files), folder / "out"))
    return folder / "out"


def assert_as_plain(got: Path, plain: Path) -> None:
    """The same rows, bit for bit, wherever they are stored, and nothing amiss."""
    assert check_output(open_store(str(got)), deep=True) == []
    (table, embeddings), (wanted, exact) = load_embeddings(got), load_embeddings(plain)
    assert table.select(wanted.column_names).equals(wanted)
    assert torch.equal(embeddings.offsets, exact.offsets)
    assert torch.equal(embeddings.values, exact.values)
