"""Recipes on the command line: named, in a file, with options, or told by the repository; and what is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import EncodeJob, encode_parquet
from pipelines.cli import merge_job_options
from pipelines.progress.report import EncodeReport
from pipelines.run.resolved_job import resolve_job
from t5enc import TextEncoder, load_embeddings
from t5enc.cli import build_app
from t5enc.errors import ConfigError, T5encError
from t5enc.output import open_output
from tests.pipelines.conftest import WriteCaptions
from tests.pipelines.small_jobs import make_job
from tests.t5enc.checkpoint.test_repository import make_repository, write_projection

CAPTIONS = ["a red bird", "two boats", "a long one " * 60]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), list(arguments), env={"COLUMNS": "160"})
    if isinstance(result.exception, T5encError):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_options_of_a_recipe_are_given_one_by_one_over_those_of_the_job_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jobs: list[EncodeJob] = []
    monkeypatch.setattr("pipelines.commands.supervise.supervise", lambda job: jobs.append(job) or 0)
    path = tmp_path / "job.yaml"
    path.write_text("recipe: flux\nrecipe_options: {max_sequence_length: 64, negative_prompt: pale}\n")
    given = ("--recipe-option", "max_sequence_length=128", "--recipe-option", "negative_prompt_2=no")
    run("encode", "a", "-o", "out", "--model", "m", "--config", str(path), *given)
    (job,) = jobs
    assert job.encoder.recipe == "flux"
    assert job.encoder.recipe_options == {
        "max_sequence_length": 128,
        "negative_prompt": "pale",
        "negative_prompt_2": "no",
    }
    assert job.encoder.max_length is None


@pytest.mark.parametrize("pairs", [[], ["a=1"]])
def test_options_of_a_recipe_that_are_no_pairs_are_refused(pairs: list[str], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("inputs: [a]\noutput: o\nmodel: m\nrecipe: flux\nrecipe_options: 3\n")
    with pytest.raises(ConfigError, match="recipe_options: expected `option: value` pairs, got 3"):
        EncodeJob.from_mapping(merge_job_options({"recipe_option": pairs}, tmp_path / "job.yaml"))


def test_a_plan_counts_what_the_recipe_computes_stores_and_cuts(write_captions: WriteCaptions) -> None:
    inputs = str(write_captions(CAPTIONS))
    given = ("--model", "builtin:tiny", "--recipe", "flux", "--recipe-option", "max_sequence_length=40")
    shown = run("plan", inputs, *given)
    assert "flux, version 1" in shown
    assert "120 computed, 120 rows stored" in shown
    assert "truncated at 40 tokens: 1 (33.33%); longest caption" in shown


def test_a_plan_knows_the_recipe_of_a_repository(write_captions: WriteCaptions, tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "model", "CogVideoXPipeline")
    shown = run("plan", str(write_captions(CAPTIONS)), "--model", str(folder))
    assert "cogvideox, version 1, inferred from model_index.json (CogVideoXPipeline)" in shown
    assert "678 computed" in shown
    assert "inferred" not in run("plan", str(write_captions(CAPTIONS)), "--model", str(folder), "--recipe", "none")


def test_a_report_says_the_recipe_and_how_many_captions_were_cut() -> None:
    totals = {"captions": 200, "shards": 1, "tokens": 9, "size": 1, "encoded": 200, "errors": 0, "died": 0}
    report = EncodeReport(
        output="out",
        totals=totals | {"truncated": 3, "longest": 700},
        max_length=512,
        recipe="flux, version 1",
        is_finished=True,
    )
    assert "9 rows" in str(report)
    assert "truncated at 512 tokens: 3 (1.50%); longest caption 700 tokens, uncut" in str(report)
    assert "\n  recipe flux, version 1" in str(report)


def test_a_job_without_a_recipe_describes_none() -> None:
    assert make_job().describe_recipe() is None


def test_shards_are_sized_by_what_a_projection_leaves(
    write_captions: WriteCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("pipelines.run.resolved_job.SHARD_BYTES", 100_000)
    folder = make_repository(tmp_path / "model", "StableAudioPipeline")
    write_projection(folder, {"text_projection.weight": torch.ones(24, 64), "text_projection.bias": torch.ones(24)})
    job = EncodeJob(inputs=[str(write_captions(CAPTIONS))], output=str(tmp_path / "out"), model=str(folder))
    found = resolve_job(job, torch.device("cpu"))
    assert (found.frozen.dim, job.storage_dtype) == (24, "float16")
    assert found.frozen.rows_per_shard == int(100_000 / (found.sample.mean * 24 * 2))


@pytest.mark.usefixtures("in_process")
def test_the_recipe_of_a_repository_is_frozen_with_its_projection(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    import torch

    folder = make_repository(tmp_path / "model", "StableAudioPipeline")
    torch.manual_seed(0)
    write_projection(folder, {"text_projection.weight": torch.randn(24, 64), "text_projection.bias": torch.randn(24)})
    job = EncodeJob(
        inputs=[str(write_captions(CAPTIONS))], output=str(tmp_path / "out"), model=str(folder), storage_dtype="float32"
    )
    report = encode_parquet(job)
    assert "recipe stable_audio, version 1, inferred from model_index.json (StableAudioPipeline)" in str(report)
    frozen = open_output(tmp_path / "out").job
    assert (frozen["identity"]["recipe"]["name"], frozen["dim"]) == ("stable_audio", 24)
    assert len(frozen["identity"]["projection"]) == 64
    found = load_embeddings(tmp_path / "out")[1]
    expected = TextEncoder.from_pretrained(folder, device="cpu").encode(CAPTIONS)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=2e-5)
    shown = " ".join(run("inspect", str(tmp_path / "out")).replace("│", " ").split())
    assert "stable_audio, version 1 (StableAudioPipeline): T5, length" in shown
    assert "inferred from model_index.json" in shown
