"""What an output notes of its job's options is enough to run the job again, and holds no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.job import EncodeJob
from pipelines.run.asked import list_asked, may_hold_secret, note_asked, read_asked
from t5enc.errors import OutputError
from t5enc.fields.parts import list_values
from t5enc.recipes.families import WAN
from t5enc.storage.layout import ASKED
from tests.pipelines.commit.memory_store import MemoryStore
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
    "max_length": 32,
    "attention": "sdpa",
    "token_budget": 512,
    "deterministic": True,
    "dedup": "job",
    "duplicates": "referenced",
    "revision": "main",
    "local_files_only": True,
}


def ask_again(job: EncodeJob, **given: Any) -> dict[str, Any]:
    """The options of a job as its output gives them back."""
    store = MemoryStore()
    note_asked(store, job)
    assert b"hidden" not in store.read(ASKED)
    frozen = make_job(dtype=job.encoder.dtype or "float32", storage_dtype=job.storage_dtype)
    return read_asked(store, frozen, "out", given)


def test_a_job_can_be_asked_for_again() -> None:
    job = EncodeJob(output="out", model="builtin:tiny", **OPTIONS)
    again = EncodeJob(output="out", **ask_again(job))
    assert list_values(again) == list_values(job)


def test_a_recipe_is_noted_as_its_fields() -> None:
    job = EncodeJob(inputs=["/a"], output="out", model="builtin:tiny-umt5", recipe=WAN, dtype="float32")
    again = EncodeJob(output="out", **ask_again(job))
    assert again.encoder.find_recipe() == WAN


def test_paths_hold_in_any_folder_and_names_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "flux", "adapter"):
        (tmp_path / name).mkdir()
    job = EncodeJob(
        inputs=["in/*.parquet", "gs://b/c"], output="out", model="model", recipe="flux", lora="adapter:0.5,owner/other"
    )
    assert list_asked(job)["options"] == {
        "inputs": [f"{tmp_path}/in/*.parquet", "gs://b/c"],
        "model": f"{tmp_path}/model",
        "recipe": "flux",
        "lora": f"{tmp_path}/adapter:0.5,owner/other",
    }


def test_what_one_run_was_told_and_where_it_took_place_are_not_noted() -> None:
    job = EncodeJob(
        inputs=["/a"],
        output="out",
        model="m",
        reuse=["old"],
        overwrite=True,
        replace=True,
        ray_address="auto",
        accelerator_type="H100",
        resources={"slot": 1},
        device="cpu",
    )
    assert list_asked(job) == {"options": {"inputs": ["/a"], "model": "m"}, "left_out": []}


def test_no_secret_is_noted_and_a_refresh_wants_it_again() -> None:
    secret = "s3://key:hidden@bucket/a"
    job = EncodeJob(inputs=["/b", secret], output="out", model="m", token="hidden", tokenizer=b"bytes hidden")
    with pytest.raises(OutputError, match=r"out: expected all options .* got none for inputs, tokenizer"):
        ask_again(job)
    assert ask_again(job, inputs=[secret], tokenizer=b"x")["inputs"] == [secret]


@pytest.mark.parametrize(
    ("uri", "is_secret"),
    [
        ("https://host/a.parquet?X-Amz-Signature=s", True),
        ("abfs://container@account.dfs.core.windows.net/x", False),
        ("abfs://container@account/x?sas=s", True),
        ("abfs://user:password@account/x", True),
        ("s3://key:s@bucket/a", True),
        ("s3://bucket/a?region=eu&scheme=http", False),
        ("s3://bucket/is it?.parquet", False),
        ("/home/me@work/a?b=c", False),
        ("hf://datasets/a/b", False),
    ],
)
def test_what_may_hold_a_secret(uri: str, is_secret: bool) -> None:
    assert may_hold_secret(uri) == is_secret


def test_what_was_left_to_the_machine_is_as_it_was_frozen() -> None:
    asked = ask_again(EncodeJob(inputs=["/a"], output="out", model="m"), device="cpu")
    assert (asked["dtype"], asked["device"]) == ("float32", "cpu")


def test_an_output_that_does_not_tell_is_refused() -> None:
    with pytest.raises(OutputError, match=r"out: expected an output that notes .* with --recheck"):
        read_asked(MemoryStore(), make_job(), "out", {})


@pytest.mark.parametrize("data", [b"", b"[]", b'{"options": 1}'])
def test_notes_that_are_damaged_are_refused(data: bytes) -> None:
    store = MemoryStore()
    store.replace(ASKED, data)
    with pytest.raises(OutputError, match=r"out: _t5enc/asked.json: expected the options of a job"):
        read_asked(store, make_job(), "out", {})
