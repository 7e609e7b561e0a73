"""Outputs that a job cannot take embeddings from: each is refused by name, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t5enc.errors import ConfigError, JobMismatchError, OutputError
from t5enc.storage.layout import JOB
from tests.pipelines.reuse.jobs import CAPTIONS, encode, write

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            {"model": "builtin:tiny-umt5"},
            {},
            r"old: .* computation; weights: expected those of builtin:tiny \(",
        ),
        ({"dtype": "bfloat16"}, {}, "old: .*dtype: expected 'float32', got 'bfloat16'"),
        ({"storage_dtype": "bfloat16"}, {}, "old: storage_dtype: expected float16 or float32 or fp16z .*got bfloat16"),
        ({"storage_dtype": "int8"}, {"storage_dtype": "fp8"}, "old: storage_dtype: expected .*, got int8g32"),
        ({"deterministic": False}, {}, "old: expected an output of a deterministic job"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(
    old: dict[str, Any], new: dict[str, Any], message: str, tmp_path: Path
) -> None:
    captions = write(tmp_path / "in", CAPTIONS[:4])
    encode(captions, tmp_path / "old", **old)
    with pytest.raises((ConfigError, JobMismatchError), match=message):
        encode(captions, tmp_path / "new", tmp_path / "old", **new)
    assert not (tmp_path / "new").exists()


def test_an_output_without_keys_is_refused(tmp_path: Path) -> None:
    captions = write(tmp_path / "in", CAPTIONS[:4])
    encode(captions, tmp_path / "old")
    job = json.loads((tmp_path / "old" / JOB).read_bytes())
    (tmp_path / "old" / JOB).write_text(json.dumps(job | {"has_keys": False}))
    with pytest.raises(ConfigError, match="old: expected an output with content keys"):
        encode(captions, tmp_path / "new", tmp_path / "old")


def test_a_job_that_is_not_deterministic_takes_from_one_that_is(tmp_path: Path) -> None:
    captions = write(tmp_path / "in", CAPTIONS[:4])
    encode(captions, tmp_path / "old")
    assert encode(captions, tmp_path / "new", tmp_path / "old", deterministic=False).totals["reused"] == 4


def test_a_missing_output_is_an_error_at_first_and_a_note_later(tmp_path: Path) -> None:
    captions = write(tmp_path / "in", CAPTIONS)
    with pytest.raises(OutputError, match="gone: expected the output of a t5enc job"):
        encode(captions, tmp_path / "new", tmp_path / "gone")
    assert not (tmp_path / "new").exists()
    encode(captions, tmp_path / "new")
    shards = sorted((tmp_path / "new" / "data").rglob("*.parquet"))
    shards[0].unlink()
    (tmp_path / "new" / "_SUCCESS").unlink()
    report = encode(captions, tmp_path / "new", tmp_path / "gone")
    assert report.is_finished
    assert f"not reused: {tmp_path / 'gone'}: expected the output of a t5enc job" in str(report)
    assert f"Not reused: {tmp_path / 'gone'}: expected" in (tmp_path / "new" / "report.html").read_text()
