"""The pipeline's commands: options, job files, messages and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import merge_options
from pipelines.job import EncodeJob
from t5enc.cli import build_app
from t5enc.errors import ConfigError, OutputError, T5encError
from tests.pipelines.conftest import WriteCaptions


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command; an error of ours is raised, as the console script would catch it."""
    result = CliRunner().invoke(build_app(), list(arguments))
    if isinstance(result.exception, T5encError):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[EncodeJob]:
    """Jobs that `encode` would run."""
    jobs: list[EncodeJob] = []
    monkeypatch.setattr("pipelines.supervise.supervise", lambda job: jobs.append(job) or 0)
    return jobs


def test_options_become_a_job(handed_over: list[EncodeJob]) -> None:
    code, _ = run("encode", "a", "b", "-o", "out", "--model", "m", "--keep-columns", "id, url", "--actors", "1:4")
    assert code == 0
    (job,) = handed_over
    assert (list(job.inputs), job.output, job.model) == (["a", "b"], "out", "m")
    assert job.keep_columns == ["id", "url"]
    assert job.actor_range() == (1, 4)


def test_the_command_line_wins_over_the_job_file(handed_over: list[EncodeJob], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("inputs: [a]\noutput: out\nmodel: m\nmax-length: 64\nkeep_columns: none\n")
    run("encode", "--config", str(tmp_path / "job.yaml"), "--max-length", "32")
    (job,) = handed_over
    assert (job.max_length, job.keep_columns, list(job.inputs)) == (32, [], ["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("inputs: [a]\noutput: o\nmodel: m\nmax_lenght: 3\n", "max_lenght: no such option; expected one of"),
        ("- a\n", "expected `option: value` lines, got list"),
        ("a: [\n", "expected a YAML file"),
    ],
)
def test_a_job_file_with_mistakes_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        EncodeJob.from_mapping(merge_options({}, path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "model: expected a value, got none"),
        ({"inputs": []}, "inputs: expected a value, got none"),
        ({"actors": "4:1"}, "actors: expected auto, N or MIN:MAX"),
        ({"actors": "many"}, "actors: expected auto, N or MIN:MAX"),
        ({"storage_dtype": "fp4"}, "storage_dtype: expected one of float16"),
        ({"caption_choice": "last"}, "caption_choice: expected one of all, first"),
        ({"on_error": "ignore"}, "on_error: expected one of keep, fail"),
        ({"rows_per_shard": 0}, "rows_per_shard: expected at least 1"),
        ({"max_length": 0}, "max_length: expected at least 1"),
        ({"token_budget": 100}, "token_budget: expected at least 16 and max_length"),
        ({"ray_address": "ray://host:10001"}, "ray job submit"),
        ({"recipe": "flux"}, "recipe: expected none"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_named(options: dict[str, object], message: str) -> None:
    given = {"inputs": ["a"], "output": "out", "model": "m"} | options
    with pytest.raises(ConfigError, match=message):
        EncodeJob.from_mapping(merge_options(given, None))


def test_resume_and_overwrite_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="expected one of them, got both"):
        run("encode", "a", "-o", "out", "--model", "m", "--resume", "--overwrite")


def test_a_plan_writes_nothing_and_says_what_a_job_takes(write_captions: WriteCaptions, tmp_path: Path) -> None:
    inputs = write_captions()
    before = sorted(tmp_path.rglob("*"))
    code, output = run("plan", str(inputs), "--model", "builtin:tiny", "--tokens-per-second", "1000")
    assert code == 0
    assert "310 rows" in output
    assert "as measured" in output
    assert sorted(tmp_path.rglob("*")) == before


def test_fsck_of_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="expected the output"):
        run("fsck", str(tmp_path))
