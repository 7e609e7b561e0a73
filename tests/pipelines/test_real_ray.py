"""The main job on a real local Ray: the six things that only other processes can show. The rest is in-process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipelines import EncodeJob, encode_parquet
from pipelines import encode as encode_module
from pipelines.commands.fsck import check_output
from pipelines.stores.store import open_store
from t5enc import TextEncoder, load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import UnfinishedError
from tests.pipelines.conftest import WriteCaptions
from tests.pipelines.in_process import encode_in_process
from tests.pipelines.killing import POISON, DyingWorker, PoisonedWorker
from tests.pipelines.same_rows import assert_equal_outputs, assert_same_rows

pytestmark = pytest.mark.usefixtures("local_ray")


def job(inputs: Path, output: Path, **options: object) -> EncodeJob:
    return EncodeJob.from_mapping(
        {"inputs": [str(inputs)], "output": str(output), "model": "builtin:tiny", "storage_dtype": "float32"} | options
    )


def assert_sound(output: Path) -> None:
    assert check_output(open_store(str(output)), deep=True) == []


def test_every_caption_comes_back_in_order_with_its_own_embedding(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    captions = sample_captions()
    report = encode_parquet(job(write_captions(), tmp_path / "out", rows_per_shard=40))
    table, embeddings = load_embeddings(tmp_path / "out")
    assert table["id"].to_pylist() == list(range(len(captions)))
    assert table["caption"].to_pylist() == captions
    assert report.totals["captions"] == report.totals["encoded"] == len(captions)
    assert report.totals["tokens"] == int(embeddings.lengths.sum())
    assert report.exit_code == 0
    expected = TextEncoder.from_pretrained("builtin:tiny").encode(captions)
    for got, wanted in zip(embeddings, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-5, atol=2e-5)
    assert_sound(tmp_path / "out")


def test_a_recipe_in_a_file_of_this_folder_reaches_the_actors(
    write_captions: WriteCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = ["a red bird", "two boats", "a long one " * 60]
    inputs = write_captions(captions)
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("based_on: chroma\nname: mine\nmax_length: 40\n")
    encode_parquet(job(inputs, tmp_path / "out", recipe="mine.yaml"))
    assert json.loads((tmp_path / "out" / "_t5enc" / "job.json").read_text())["identity"]["recipe"]["name"] == "mine"
    found = load_embeddings(tmp_path / "out")[1].to_pipeline()
    expected = TextEncoder.from_pretrained("builtin:tiny", recipe="mine.yaml").encode(captions).to_pipeline()
    assert found.prompt_embeds.shape[1] == 40
    for name in ("prompt_embeds", "null_embeds"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=2e-5)


def test_a_damaged_input_is_listed_and_the_others_are_encoded(write_captions: WriteCaptions, tmp_path: Path) -> None:
    inputs = write_captions(["a red bird"] * 30, rows_per_file=10)
    (inputs / "part-001.parquet").write_bytes((inputs / "part-001.parquet").read_bytes()[:-20])
    report = encode_parquet(job(inputs, tmp_path / "out"))
    assert list(report.unreadable) == ["part-001.parquet"]
    assert report.exit_code == 4
    assert report.totals["captions"] == 20
    with pytest.raises(UnfinishedError):
        load_embeddings(tmp_path / "out")
    assert len(load_embeddings(tmp_path / "out", partial=True)[0]) == 20
    (inputs / "part-001.parquet").unlink()
    assert encode_in_process(job(inputs, tmp_path / "out")).exit_code == 0
    assert_sound(tmp_path / "out")


def test_actors_that_die_at_random_lose_nothing(
    write_captions: WriteCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_captions(rows_per_file=70)
    options = {"rows_per_shard": 20, "token_budget": 512, "actors": 2}
    encode_in_process(job(inputs, tmp_path / "expected", **options))
    monkeypatch.setattr(encode_module, "SpanWorker", DyingWorker)
    report = encode_parquet(job(inputs, tmp_path / "out", **options))
    assert len(list((tmp_path / "deaths").iterdir())) == DyingWorker.LIVES
    assert report.exit_code == 0
    assert_equal_outputs(tmp_path / "out", tmp_path / "expected", rtol=2e-5)


@pytest.mark.parametrize("poisonous", [[17], pytest.param([17, 18, 61], marks=pytest.mark.cluster)], ids=len)
def test_captions_that_kill_the_encoder_become_null_and_their_neighbours_are_safe(
    poisonous: list[int], write_captions: WriteCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = sample_captions()[:90]
    expected = TextEncoder.from_pretrained("builtin:tiny").encode(captions)
    for place in poisonous:
        captions[place] = POISON
    inputs = write_captions(captions)
    monkeypatch.setattr(encode_module, "SpanWorker", PoisonedWorker)
    report = encode_parquet(job(inputs, tmp_path / "out", rows_per_shard=30))
    table, embeddings = load_embeddings(tmp_path / "out")
    errors = table["text_embedding_error"].to_pylist()
    assert [i for i, error in enumerate(errors) if error is not None] == poisonous
    assert {errors[i] for i in poisonous} == {"encoder died"}
    for index in set(range(90)) - set(poisonous):
        torch.testing.assert_close(embeddings[index], expected[index], rtol=2e-5, atol=2e-5)
    count = len(poisonous)
    assert (report.totals["died"], report.totals["encoded"], report.exit_code) == (count, 90 - count, 3)
    assert_sound(tmp_path / "out")

    monkeypatch.undo()
    retried = encode_in_process(job(inputs, tmp_path / "out", rows_per_shard=30, retry_errors=True))
    assert (retried.totals["died"], retried.totals["encoded"], retried.exit_code) == (0, 90, 0)
    assert_sound(tmp_path / "out")


def test_with_tokenizers_the_output_is_the_same_bit_for_bit(write_captions: WriteCaptions, tmp_path: Path) -> None:
    captions: list[str | None] = [*sample_captions()[:100], None, "", *sample_captions()[100:]]
    inputs = write_captions(captions, rows_per_file=120)
    options = {"rows_per_shard": 25, "cpus_per_actor": 1}
    encode_in_process(job(inputs, tmp_path / "expected", **options))
    report = encode_parquet(job(inputs, tmp_path / "out", tokenizers=1, **options))
    assert_same_rows(tmp_path / "out", tmp_path / "expected")
    progress = report.progress
    assert (progress.tokenizers_ready, progress.cost.unit_retries, progress.counts.captions) == (1, 0, len(captions))
    assert report.spans == progress.cost.units == 13
