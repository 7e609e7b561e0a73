"""A job that takes embeddings from earlier outputs: the same rows, bit for bit, that a fresh one computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.progress.report import EncodeReport
from t5enc.checkpoint.builtin import sample_captions
from tests.pipelines.same_rows import assert_equal_outputs

pytestmark = pytest.mark.usefixtures("in_process")
CAPTIONS = [f"{caption} number {n}" for n in range(4) for caption in sample_captions()[:40]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indexes of keys lie."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr("pipelines.reuse.index_cache.find_cache", lambda: folder)
    return folder


def write(folder: Path, *files: list[str | None]) -> Path:
    folder.mkdir()
    for number, captions in enumerate(files):
        pq.write_table(pa.table({"caption": pa.array(captions, pa.string())}), folder / f"{number}.parquet")
    return folder


def encode(inputs: Path, output: Path, *reuse: Path, **options: Any) -> EncodeReport:
    usual = {"model": "builtin:tiny", "deterministic": True, "rows_per_shard": 30, "reuse": [str(one) for one in reuse]}
    return encode_parquet(EncodeJob.from_mapping({"inputs": [str(inputs)], "output": str(output)} | usual | options))


def test_what_an_earlier_output_has_is_copied(tmp_path: Path) -> None:
    old = write(tmp_path / "old_in", CAPTIONS)
    new = write(tmp_path / "new_in", ["a new caption", None, *CAPTIONS[::-1]], CAPTIONS[5:20])
    encode(old, tmp_path / "old")
    encode(new, tmp_path / "fresh")
    report = encode(new, tmp_path / "new", tmp_path / "old")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.totals["reused"] == 175
    assert report.details.findings.reused == {str(tmp_path / "old"): 175}
    assert "175 captions, " in str(report)
