"""Jobs: options that are refused, what makes two jobs the same, and who owns an output."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.commit.ownership import check_owner, compare, freeze
from pipelines.job import EncodeJob, FrozenJob
from t5enc.errors import ConfigError, JobMismatchError, OutputError
from t5enc.options import EncoderOptions
from t5enc.storage.layout import JOB, SUCCESS
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.small_jobs import KEPT, make_job

NEEDED: dict[str, Any] = {"inputs": ["in"], "output": "out", "model": "builtin:tiny"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("inputs", "in/", "inputs: expected a list of strings, got 'in/'"),
        ("inputs", [], "inputs: expected at least one file, folder or glob, got none"),
        ("inputs", [1], "inputs: expected a string, got 1"),
        ("model", 5, "model: expected a string, got 5"),
        ("text_column", False, "text_column: expected a string, got False"),
        ("storage_dtype", "float8", "storage_dtype: expected one of float16, .*, fp16z, got 'float8'"),
        ("caption_choice", "last", "caption_choice: expected one of all, first, got 'last'"),
        ("on_error", "ignore", "on_error: expected one of keep, fail, got 'ignore'"),
        ("rows_per_shard", 0, "rows_per_shard: expected at least 1, got 0"),
        ("rows_per_shard", True, "rows_per_shard: expected a whole number, got True"),
        ("rows_per_shard", "10", "rows_per_shard: expected a whole number, got '10'"),
        ("gpus_per_actor", "half", "gpus_per_actor: expected a number, got 'half'"),
        ("overwrite", "yes", "overwrite: expected true or false, got 'yes'"),
        ("keep_columns", "id", "keep_columns: expected a list of strings, got 'id'"),
        ("keep_columns", [None], "keep_columns: expected a string, got None"),
        ("actors", "many", "actors: expected auto, N or MIN:MAX with 1 <= MIN <= MAX, got 'many'"),
        ("actors", "4:2", "actors: expected auto, N or MIN:MAX with 1 <= MIN <= MAX, got '4:2'"),
        ("actors", 0, "actors: expected auto, N or MIN:MAX with 1 <= MIN <= MAX, got 0"),
        ("tokenizers", "many", "tokenizers: expected 0, N or MIN:MAX with 1 <= MIN <= MAX, got 'many'"),
        ("tokenizers", "0:2", "tokenizers: expected 0, N or MIN:MAX with 1 <= MIN <= MAX, got '0:2'"),
        ("tokenizers", -1, "tokenizers: expected 0, N or MIN:MAX with 1 <= MIN <= MAX, got -1"),
        ("max_length", 0, "max_length: expected at least 1, got 0"),
        ("max_length", "long", "max_length: expected a whole number, got 'long'"),
        ("attention", "fast", "attention: expected one of auto, flex, sdpa, got 'fast'"),
        ("gpus_per_actor", 1.5, "gpus_per_actor: expected a share of one, or a whole number of them, got 1.5"),
        ("gpus_per_actor", 0, "gpus_per_actor: expected a share of one, or a whole number of them, got 0"),
        ("cpus_per_actor", 0, "cpus_per_actor: expected at least 1, got 0"),
        ("resources", ["slot"], r"resources: expected `option: value` pairs, got \['slot'\]"),
        ("resources", {"slot": "1"}, "resources: slot: expected a number, got '1'"),
        ("resources", {"slot": -1}, "resources: slot: expected a share of one, or a whole number of them, got -1"),
        ("resources", {"GPU": 1}, "resources: expected gpus_per_actor for GPU, got it here"),
        ("label_selector", {"zone": 1}, "label_selector: zone: expected a string, got 1"),
        ("ship_code", True, "ship_code: expected a ray_address with it, got none"),
        ("ray_address", "ray://head:10001", "from outside, use `ray job submit -- t5enc encode"),
        ("recipe", "fluks", "recipe: expected one of wan, .*, or a YAML file, got 'fluks'"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_named(option: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EncodeJob.from_mapping(NEEDED | {option: value})


def test_an_unknown_option_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="batch_size: no such option; expected one of inputs, output, model, "):
        EncodeJob.from_mapping(NEEDED | {"batch_size": 8})
    with pytest.raises(ConfigError, match=r"^1: no such option; expected one of inputs, output, model, "):
        EncodeJob.from_mapping({**NEEDED, 1: 2})


@pytest.mark.parametrize("name", ["inputs", "output", "model"])
def test_what_has_no_default_must_be_given(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected a value, got none"):
        EncodeJob.from_mapping({key: value for key, value in NEEDED.items() if key != name})


@pytest.mark.parametrize(
    ("actors", "bounds"), [("auto", None), ("3", (3, 3)), (3, (3, 3)), ("2:5", (2, 5)), ("1:1", (1, 1))]
)
def test_actors_are_a_number_or_a_range(actors: str | int, bounds: tuple[int, int] | None) -> None:
    assert EncodeJob(**NEEDED, actors=actors).actor_range() == bounds
    if bounds is not None:
        assert EncodeJob(**NEEDED, tokenizers=actors).tokenizer_range() == bounds


@pytest.mark.parametrize("none", [0, "0"])
def test_without_tokenizers_encoders_do_it_themselves(none: str | int) -> None:
    assert EncodeJob(**NEEDED, tokenizers=none).tokenizer_range() == EncodeJob(**NEEDED).tokenizer_range() == (0, 0)


def test_where_a_job_runs_is_no_part_of_what_it_is() -> None:
    job = EncodeJob(**NEEDED, resources={"slot": 0.5}, label_selector={"zone": "!a"}, accelerator_type="L4")
    assert job.resources == {"slot": 0.5}
    assert job.encoder == EncodeJob(**NEEDED).encoder


def test_the_encoder_gets_its_part_of_the_options() -> None:
    job = EncodeJob(**NEEDED, dtype="float32", max_length=77, revision="main", deterministic=True)
    options = job.encoder
    assert (options.source.model, options.dtype, options.max_length) == ("builtin:tiny", "float32", 77)
    assert options.source.revision == "main"
    assert options.deterministic


def test_the_encoders_options_stand_beside_the_others() -> None:
    job = EncodeJob(**NEEDED, dtype="float32", revision="main", deterministic=True)
    assert (job.model, job.dtype, job.revision, job.deterministic) == ("builtin:tiny", "float32", "main", True)
    assert job.encoder_options() == job.encoder


def test_home_folders_are_written_out_of_whole_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    asked = {"model": "~/m", "tokenizer": "~/t", "compile_cache": "~/c"}
    job = EncodeJob(inputs=[Path("~/a"), "b"], output="~/out", encoder=EncoderOptions(**asked))
    assert job == EncodeJob(inputs=("~/a", Path("b")), output=Path("~/out"), **asked)
    assert (job.inputs, job.output) == (["/home/me/a", "b"], "/home/me/out")
    assert (job.encoder.source.model, job.encoder.compile_cache) == ("/home/me/m", "/home/me/c")


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(EncodeJob(**NEEDED, token="secret"))


def test_a_job_survives_pickling() -> None:
    job = EncodeJob(**NEEDED, actors="1:2", keep_columns=["id"])
    assert pickle.loads(pickle.dumps(job)) == job


def test_a_frozen_job_survives_json() -> None:
    job = make_job(generation=3, weights="abc")
    assert FrozenJob.from_json(job.to_json()) == job
    assert json.loads(job.to_json())["fingerprint"] == job.fingerprint
    assert FrozenJob.from_json(job.to_json()).kept_schema == KEPT


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"null", b'{"identity": {}}', b"\xff", b'"text"'])
def test_a_job_file_that_is_not_ours_is_an_output_error(data: bytes) -> None:
    with pytest.raises(OutputError, match=r"_t5enc/job.json: expected a t5enc job, got "):
        FrozenJob.from_json(data)


def test_a_field_of_a_later_version_is_passed_over() -> None:
    content = json.loads(make_job().to_json()) | {"mood": "good"}
    assert FrozenJob.from_json(json.dumps(content).encode()) == make_job()


def test_the_fingerprint_covers_what_decides_the_shards_and_no_more() -> None:
    job = make_job()
    others = [make_job(max_length=77), make_job(generation=2), make_job(rows_per_shard=3)]
    assert len({other.fingerprint for other in [job, *others]}) == 4
    assert replace(job, record={"device": "cuda"}).fingerprint == job.fingerprint


def test_a_new_output_becomes_the_jobs_own() -> None:
    store = MemoryStore()
    assert freeze(store, make_job()) == make_job()
    assert FrozenJob.from_json(store.read(JOB)) == make_job()


def test_the_same_job_finds_itself_as_it_was_frozen_first() -> None:
    """Rows of a shard are guessed from a sample, which may be another one by now."""
    store = MemoryStore()
    first = freeze(store, make_job(rows_per_shard=5))
    assert freeze(store, make_job(rows_per_shard=9)) == first


def test_another_job_is_refused_with_each_field_that_differs() -> None:
    store = MemoryStore()
    freeze(store, make_job(weights="abc"))
    before = dict(store.objects)
    with pytest.raises(JobMismatchError) as caught:
        freeze(store, make_job(weights="xyz", projection="def"))
    assert caught.value.differences == {"weights": ("abc", "xyz"), "projection": (None, "def")}
    assert "  projection: there None, here 'def'\n  weights: there 'abc', here 'xyz'" in str(caught.value)
    assert "choose another folder, or --overwrite to start anew" in str(caught.value)
    assert store.objects == before


@pytest.mark.parametrize("other", [{}, {"weights": "xyz"}])
def test_overwriting_starts_a_new_generation(other: dict[str, str]) -> None:
    store = MemoryStore()
    first = freeze(store, make_job())
    store.replace(SUCCESS, b"{}")
    second = freeze(store, make_job(**other), overwrite=True)
    assert second.generation == 2
    assert second.fingerprint != first.fingerprint
    assert store.size(SUCCESS) is None
    assert freeze(store, make_job(**other)) == second
    assert freeze(store, make_job(**other), overwrite=True).generation == 3


def test_overwriting_an_empty_folder_is_a_first_generation() -> None:
    assert freeze(MemoryStore(), make_job(), overwrite=True).generation == 1


def test_a_foreign_job_file_is_not_overwritten() -> None:
    store = MemoryStore()
    store.replace(JOB, b"not ours")
    with pytest.raises(OutputError):
        freeze(store, make_job(), overwrite=True)
    assert store.read(JOB) == b"not ours"


def test_an_output_that_was_overwritten_has_another_owner() -> None:
    store = MemoryStore()
    first = freeze(store, make_job())
    check_owner(store, first)
    second = freeze(store, make_job(), overwrite=True)
    check_owner(store, second)
    with pytest.raises(OutputError, match="another run has overwritten this output while this one worked"):
        check_owner(store, first)


def test_comparison_names_what_one_side_lacks() -> None:
    assert compare({"a": 1, "b": 2}, {"b": 3, "c": 4}) == {"a": (1, None), "b": (2, 3), "c": (None, 4)}
    assert compare({"a": [1]}, {"a": [1]}) == {}
