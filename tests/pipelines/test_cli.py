"""The pipeline's commands: options, job files, messages and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import merge_job_options
from pipelines.commit.protocol import begin_commit, commit_shard, conclude_commit
from pipelines.job import EncodeJob
from pipelines.stores.store import open_store
from t5enc.cli import build_app
from t5enc.errors import ConfigError, OutputError, T5encError
from t5enc.storage import STORAGE_DTYPES
from tests.pipelines.conftest import WriteCaptions
from tests.pipelines.small_jobs import make_job, make_unit_shard, plan_file


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
    monkeypatch.setattr("pipelines.commands.supervise.supervise", lambda job: jobs.append(job) or 0)
    return jobs


def test_options_become_a_job(handed_over: list[EncodeJob]) -> None:
    code, _ = run("encode", "a", "b", "-o", "out", "--model", "m", "--keep-columns", "id, url", "--actors", "1:4")
    assert code == 0
    (job,) = handed_over
    assert (list(job.inputs), job.output, job.encoder.source.model) == (["a", "b"], "out", "m")
    assert job.keep_columns == ["id", "url"]
    assert job.actor_range() == (1, 4)


def test_the_help_of_encode_lists_every_codec() -> None:
    shown = " ".join(run("encode", "--help")[1].replace("│", " ").split())
    assert f"One of {', '.join(STORAGE_DTYPES)} (default: float16); int8 is int8g32." in shown


def test_the_command_line_wins_over_the_job_file(handed_over: list[EncodeJob], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("inputs: [a]\noutput: out\nmodel: m\nmax-length: 64\nkeep_columns: none\n")
    run("encode", "--config", str(tmp_path / "job.yaml"), "--max-length", "32")
    (job,) = handed_over
    assert (job.encoder.max_length, job.keep_columns, list(job.inputs)) == (32, [], ["a"])


def test_tokenizers_are_asked_for_in_either_way(handed_over: list[EncodeJob], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("inputs: [a]\noutput: out\nmodel: m\ntokenizers: 2\n")
    run("encode", "--config", str(tmp_path / "job.yaml"))
    run("encode", "--config", str(tmp_path / "job.yaml"), "--tokenizers", "1:8")
    assert [job.tokenizer_range() for job in handed_over] == [(2, 2), (1, 8)]


def test_casts_are_given_one_by_one_whatever_a_column_is_called(handed_over: list[EncodeJob], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("inputs: [a]\noutput: o\nmodel: m\ncast: {id: int64, url: large_string}\n")
    given = ["--cast", "id=string", "--cast", "a=b=timestamp[us, tz=UTC]", "--cast", "price=decimal128(10, 2)"]
    run("encode", "--config", str(tmp_path / "job.yaml"), *given)
    (job,) = handed_over
    named = {"a=b": "timestamp[us, tz=UTC]", "price": "decimal128(10, 2)"}
    assert job.cast == {"id": "string", "url": "large_string"} | named


def test_resources_and_labels_are_given_one_by_one(handed_over: list[EncodeJob], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("inputs: [a]\noutput: o\nmodel: m\nresources: {slot: 1, disk: 2}\n")
    given = ["--resource", "slot=0.5", "--label", "zone=in(a, b)", "--label", "ray.io/market-type=!spot"]
    run("encode", "--config", str(tmp_path / "job.yaml"), *given, "--accelerator-type", "L4")
    (job,) = handed_over
    assert job.resources == {"slot": 0.5, "disk": 2}
    assert job.label_selector == {"zone": "in(a, b)", "ray.io/market-type": "!spot"}
    assert job.accelerator_type == "L4"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--resource", "slot"], "resources: expected NAME=VALUE, got 'slot'"),
        (["--resource", "slot=many"], "resources: slot: expected a number, got 'many'"),
        (["--cast", "id"], "cast: expected NAME=VALUE, got 'id'"),
        (["--label", "=a"], "label_selector: expected NAME=VALUE, got '=a'"),
        (["--ship-code"], "ship_code: expected a ray_address with it, got none"),
    ],
)
def test_a_selector_that_says_nothing_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        run("encode", "a", "-o", "out", "--model", "m", *given)


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
        EncodeJob.from_mapping(merge_job_options({}, path))


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
        ({"recipe": "fluks"}, "recipe: expected one of wan, "),
    ],
)
def test_an_option_that_cannot_be_honoured_is_named(options: dict[str, object], message: str) -> None:
    given = {"inputs": ["a"], "output": "out", "model": "m"} | options
    with pytest.raises(ConfigError, match=message):
        EncodeJob.from_mapping(merge_job_options(given, None))


def test_resume_and_overwrite_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="expected one of them, got both"):
        run("encode", "a", "-o", "out", "--model", "m", "--resume", "--overwrite")


def test_resuming_goes_on_even_where_the_job_file_says_overwrite(handed_over: list[EncodeJob], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("inputs: [a]\noutput: out\nmodel: m\noverwrite: true\n")
    run("encode", "--config", str(tmp_path / "job.yaml"))
    run("encode", "--config", str(tmp_path / "job.yaml"), "--resume")
    assert [job.overwrite for job in handed_over] == [True, False]


@pytest.mark.parametrize(
    "line", ["rows_per_shard: many", "keep_columns: 3", "text_column: no", "overwrite: perhaps", "inputs: captions"]
)
def test_a_value_of_another_type_is_refused_by_name(line: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(line)
    with pytest.raises(ConfigError, match=f"{line.partition(':')[0]}: expected "):
        EncodeJob.from_mapping(
            {"inputs": ["a"], "output": "o", "model": "m"} | merge_job_options({}, tmp_path / "job.yaml")
        )


def test_the_exit_code_of_the_job_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.commands.supervise.supervise", lambda job: 3)
    assert run("encode", "a", "-o", "out", "--model", "m")[0] == 3


def test_a_plan_writes_nothing_and_says_what_a_job_takes(write_captions: WriteCaptions, tmp_path: Path) -> None:
    inputs = write_captions()
    before = sorted(tmp_path.rglob("*"))
    code, output = run("plan", str(inputs), "--model", "builtin:tiny", "--tokens-per-second", "1000")
    assert code == 0
    assert "310 rows" in output
    assert "as measured" in output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--devices", "0", "devices: expected at least 1, got 0"),
        ("--hour-price", "-1", "prices: expected none below 0, got -1 and 23"),
        ("--tokens-per-second", "0", "tokens_per_second: expected more than 0, got 0"),
        ("--device", "tpu", "device: expected auto, cuda or cpu, got 'tpu'"),
    ],
)
def test_a_plan_of_what_cannot_be_is_refused(
    option: str, value: str, message: str, write_captions: WriteCaptions
) -> None:
    with pytest.raises(ConfigError, match=message):
        run("plan", str(write_captions(["a red bird"])), "--model", "builtin:tiny", option, value)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0"])
def test_a_plan_is_for_a_device_that_need_not_be_here(device: str, write_captions: WriteCaptions) -> None:
    code, output = run("plan", str(write_captions(["a red bird"])), "--model", "builtin:tiny", "--device", device)
    assert code == 0
    assert "rough" in output


def test_a_job_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a YAML file of options, got: "):
        merge_job_options({}, tmp_path / "nowhere.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match="expected `option: value` lines, got NoneType"):
        merge_job_options({}, tmp_path / "empty.yaml")


@pytest.mark.parametrize(
    ("keep", "columns"), [("none", []), ("id", ["id"]), ("id, url", ["id", "url"]), ("[id, url]", ["id", "url"])]
)
def test_columns_to_keep_are_a_list_or_names_with_commas(keep: str, columns: list[str], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"keep-columns: {keep}")
    assert merge_job_options({}, tmp_path / "job.yaml") == {"keep_columns": columns}


def test_fsck_is_0_where_all_is_well_and_1_with_a_line_a_problem(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    commit = begin_commit(store, make_job(), [plan_file()])
    for unit in commit.left:
        commit.records[unit.name] = commit_shard(store, *make_unit_shard(commit.frozen, unit))
    conclude_commit(store, commit)
    name = next(iter(commit.units))
    assert run("fsck", str(tmp_path / "out")) == (0, f"{tmp_path}/out: plan, shards and manifest agree\n")
    store.delete(name)
    for options in ([], ["--deep"]):
        code, said = run("fsck", str(tmp_path / "out"), *options)
        assert (code, said) == (1, f"{name}: missing\n{tmp_path}/out: 1 problem(s)\n")


def test_fsck_of_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="expected the output"):
        run("fsck", str(tmp_path))
