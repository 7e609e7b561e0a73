"""What an output records of its job's options is enough to run the job again, and holds no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.job import EncodeJob, FrozenJob
from pipelines.run.asked import read_asked, record_asked
from t5enc.errors import OutputError
from t5enc.fields.parts import list_values
from t5enc.recipes.families import WAN
from tests.pipelines.small_jobs import make_job

OPTIONS: dict[str, Any] = {
    "inputs": ["s3://bucket/a.parquet"],
    "text_column": "text",
    "caption_choice": "first",
    "keep_columns": ["id"],
    "cast": {"id": "int64"},
    "storage_dtype": "bfloat16",
    "dtype": "float32",
    "rows_per_shard": 7,
    "resources": {"slot": 0.5},
    "label_selector": {"zone": "a"},
    "max_length": 32,
    "attention": "sdpa",
    "token_budget": 512,
    "deterministic": True,
    "dedup": "job",
    "duplicates": "referenced",
    "revision": "main",
    "local_files_only": True,
}


def freeze(job: EncodeJob) -> FrozenJob:
    """An output's job as it is read back."""
    identity = {"dtype": job.encoder.dtype or "float32", "storage_dtype": job.storage_dtype}
    frozen = make_job(**identity)
    frozen.record.update(json.loads(json.dumps(record_asked(job))))
    return frozen


def test_a_job_can_be_asked_for_again() -> None:
    job = EncodeJob(output="out", model="builtin:tiny", **OPTIONS)
    again = EncodeJob(output="out", **read_asked(freeze(job), "out", {}))
    assert list_values(again) == list_values(job)


def test_a_recipe_is_recorded_as_its_fields() -> None:
    job = EncodeJob(inputs=["/a"], output="out", model="builtin:tiny-umt5", recipe=WAN, dtype="float32")
    again = EncodeJob(output="out", **read_asked(freeze(job), "out", {}))
    assert again.encoder.find_recipe() == WAN


def test_paths_hold_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    asked = record_asked(EncodeJob(inputs=["in/*.parquet", "gs://b/c"], output="out", model="model"))["asked"]
    assert asked == {"inputs": [f"{tmp_path}/in/*.parquet", "gs://b/c"], "model": f"{tmp_path}/model"}


def test_what_one_run_was_told_is_not_recorded() -> None:
    job = EncodeJob(
        inputs=["/a"], output="out", model="m", reuse=["old"], overwrite=True, replace=True, ray_address="auto"
    )
    assert record_asked(job) == {"asked": {"inputs": ["/a"], "model": "m"}}


def test_no_secret_is_recorded_and_a_refresh_wants_it_again() -> None:
    secret = "s3://key:hidden@bucket/a"
    job = EncodeJob(inputs=["/b", secret], output="out", model="m", token="hidden", tokenizer=b"bytes hidden")
    frozen = freeze(job)
    assert "hidden" not in json.dumps(frozen.record)
    with pytest.raises(OutputError, match=r"out: expected all options .* got none for inputs, tokenizer"):
        read_asked(frozen, "out", {})
    assert read_asked(frozen, "out", {"inputs": [secret], "tokenizer": b"x"})["inputs"] == [secret]


def test_what_was_left_to_the_machine_is_as_it_was_frozen() -> None:
    frozen = freeze(EncodeJob(inputs=["/a"], output="out", model="m"))
    assert read_asked(frozen, "out", {"device": "cpu"})["dtype"] == "float32"


def test_an_output_that_does_not_tell_is_refused() -> None:
    with pytest.raises(OutputError, match=r"out: expected an output that records .* with --replace"):
        read_asked(make_job(), "out", {})
