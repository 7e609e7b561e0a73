"""What an actor does with a span, without Ray: a ledger in this process, an encoder that is made up."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.actors import reader as reader_module
from pipelines.actors.throughput import read_throughput
from pipelines.commit.counts import Cost
from pipelines.commit.records import read_footer_record
from pipelines.stores.store import LocalStore
from t5enc.errors import OutputError, SourceError
from tests.pipelines.actors.fake_encoder import TOO_LARGE, FakeActor, FakeEncoder
from tests.pipelines.one_process import TEXTS, Setting, lay_out, rows_of

pytestmark = pytest.mark.usefixtures("no_ray")


def test_a_span_becomes_a_shard_a_unit_in_order(setting: Setting) -> None:
    results = setting.run(FakeEncoder())
    assert rows_of(results, "unit") == [0, 3, 6]
    assert setting.stored() == {0: TEXTS[:3], 3: TEXTS[3:6], 6: TEXTS[6:]}
    for result, unit in zip(results, setting.units, strict=True):
        assert result.record == read_footer_record(setting.store, unit.name)


def test_the_ledger_hears_what_was_gained(setting: Setting) -> None:
    setting.run(FakeEncoder(failing=[TEXTS[4]]))
    progress = setting.ledger.read()
    assert (progress.cost.units, progress.counts.input_rows, progress.counts.captions, progress.counts.errors) == (
        3,
        8,
        8,
        1,
    )
    assert progress.counts.tokens == progress.cost.useful_tokens - len(TEXTS[4]) - 1
    assert progress.cost.busy_seconds == 3
    assert progress.counts.size == sum(size for _, size in setting.store.list())
    assert setting.ledger.attempts == {}


def test_a_node_that_is_leaving_begins_nothing_and_returns_the_span(setting: Setting) -> None:
    setting.ledger.leave({"here"})
    results = setting.run(FakeEncoder())
    assert [(result.kind, result.span) for result in results] == [("returned", setting.task.span)] * 3
    assert setting.ledger.attempts == {}


def test_the_unit_in_hand_is_finished_when_the_node_is_told_to_leave(setting: Setting) -> None:
    worker = setting.worker()

    class Told(FakeEncoder):
        def encode_ragged(self, *arguments: Any, **options: Any) -> Any:
            worker.attempts.is_leaving = True
            return super().encode_ragged(*arguments, **options)

    results = list(worker.run(FakeActor(Told()), [setting.task]))  # type: ignore[arg-type]
    assert [result.kind for result in results] == ["returned", "unit"]
    assert setting.stored() == {0: TEXTS[:3]}


def test_a_worker_hears_with_a_unit_that_its_node_is_leaving(setting: Setting) -> None:
    worker = setting.worker()
    end = setting.ledger.end

    def end_and_leave(*arguments: Any) -> bool:
        setting.ledger.leave({"here"})
        return end(*arguments)

    setting.ledger.end = end_and_leave  # type: ignore[method-assign]
    done = frozenset({3, 6})
    assert [r.kind for r in worker.run(FakeActor(FakeEncoder()), [replace(setting.task, done=done)])] == ["unit"]  # type: ignore[arg-type]
    assert worker.attempts.is_leaving


def test_units_that_are_done_are_not_read(setting: Setting) -> None:
    encoder = FakeEncoder()
    results = setting.run(encoder, replace(setting.task, done=frozenset({0, 6})))
    assert rows_of(results, "unit") == [3]
    assert encoder.streams == [TEXTS[3:6]]


def test_a_unit_that_another_run_committed_meanwhile_is_not_encoded_again(setting: Setting) -> None:
    first = setting.run(FakeEncoder(failing=[TEXTS[0]]), replace(setting.task, done=frozenset({3, 6})))
    encoder = FakeEncoder()
    results = setting.run(encoder)
    assert [text for stream in encoder.streams for text in stream] == TEXTS[3:]
    assert results[0].record == first[0].record


def test_a_writer_that_is_late_reports_what_is_there(setting: Setting) -> None:
    (first,) = setting.run(FakeEncoder(failing=[TEXTS[0]]), replace(setting.task, done=frozenset({3, 6})))
    worker, actor = setting.worker(), FakeActor(FakeEncoder())
    worker.reader.find_record = lambda unit: None  # type: ignore[method-assign]
    (late,) = worker.run(actor, [replace(setting.task, done=frozenset({3, 6}))])  # type: ignore[arg-type]
    assert late.record == first.record
    assert late.record is not None
    assert late.record.counts.errors == 1


def test_tasks_and_results_travel_as_pickles(setting: Setting) -> None:
    batch = pa.table({"tasks": [pickle.dumps([setting.task])]})
    table = setting.worker()(FakeActor(FakeEncoder()), batch)  # type: ignore[arg-type]
    (results,) = map(pickle.loads, table["results"].to_pylist())
    assert rows_of(results, "unit") == [0, 3, 6]


def test_what_is_committed_before_a_file_turns_out_to_be_damaged_is_told(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reader_module.read_captions

    def read_two(*args: Any, **options: Any) -> Iterator[Any]:
        batches = read(*args, **options)
        yield next(batches)
        yield next(batches)
        raise SourceError("a.parquet: row group 0: expected readable pages")

    monkeypatch.setattr(reader_module, "read_captions", read_two)
    results = setting.run(FakeEncoder())
    assert rows_of(results, "unit") == [0, 3]
    (bad,) = [result for result in results if result.kind == "unreadable"]
    assert (bad.span, bad.reason) == (setting.task.span, "a.parquet: row group 0: expected readable pages")


def test_a_file_that_changed_since_it_was_planned_is_named(setting: Setting, tmp_path: Path) -> None:
    lay_out(tmp_path, ["changed"] * 8)
    result, *rest = setting.run(FakeEncoder())
    assert [result.kind, *(other.kind for other in rest)] == ["unreadable", "returned", "returned"]
    assert "a.parquet: changed during the run" in result.reason
    assert setting.ledger.attempts == {}, "it is unreadable, and not what killed"
    assert setting.stored() == {}


def test_a_disk_that_is_full_ends_the_run(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bool:
        raise OutputError("out: the disk is full")

    monkeypatch.setattr(LocalStore, "create", refuse)
    *_, result = setting.run(FakeEncoder())
    assert (result.kind, result.reason, result.exit_code) == ("fatal", "out: the disk is full", 2)


@pytest.mark.parametrize("bad", [None, "worse"])
def test_a_caption_without_embedding_fails_the_run_where_asked_to(tmp_path: Path, bad: str | None) -> None:
    setting = lay_out(tmp_path, ["good", bad])
    (result,) = setting.run(FakeEncoder(failing=["worse"]), on_error="fail")
    reason = "null caption" if bad is None else TOO_LARGE
    assert result.kind == "fatal"
    assert result.reason == f"a.parquet, row 1: {reason} (on_error is fail)"
    assert setting.stored() == {}


def test_an_actor_says_when_it_starts_and_how_it_is_set(setting: Setting) -> None:
    worker = setting.worker()
    worker.starting()
    assert (setting.ledger.read().actors_started, setting.ledger.read().actors_ready) == (1, 0)
    worker.started(FakeActor(FakeEncoder()))  # type: ignore[arg-type]
    assert setting.ledger.read().actors_ready == 1
    assert setting.ledger.read().settings["attention"] == "sdpa"


def test_an_actor_that_cannot_honour_the_frozen_dtype_refuses(setting: Setting) -> None:
    actor = FakeActor(FakeEncoder())
    actor.encoder.options.dtype = "bfloat16"
    with pytest.raises(OutputError, match="the job was frozen with float32, this actor computes in bfloat16"):
        setting.worker().started(actor)  # type: ignore[arg-type]


def test_an_actor_with_another_tokenizer_refuses(setting: Setting) -> None:
    actor = FakeActor(FakeEncoder())
    actor.encoder.tokenizer.fingerprint = "words"
    with pytest.raises(OutputError, match="tokenizer: this actor loaded another one"):
        setting.worker().started(actor)  # type: ignore[arg-type]


def test_the_difference_of_two_readings_is_what_was_computed_between_them() -> None:
    actor = FakeActor(FakeEncoder())
    actor.encoder.counters.useful_tokens = 5
    before = read_throughput(actor)  # type: ignore[arg-type]
    actor.encoder.counters.useful_tokens = 12
    actor.busy_seconds = 2.0
    assert read_throughput(actor) - before == Cost(useful_tokens=7, busy_seconds=2.0)  # type: ignore[arg-type]
