"""What an actor does with a span, without Ray: a ledger in this process, an encoder that can be made to die."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from pipelines.actors import reader as reader_module
from pipelines.actors.prefetching import prefetch
from pipelines.actors.shards import Caution
from pipelines.actors.tasks import SpanResult
from pipelines.actors.throughput import read_throughput
from pipelines.commit.counts import Work
from pipelines.commit.records import UnitRecord, read_footer_record
from pipelines.progress.ledger import ATTEMPTS
from pipelines.run.suspects import learn
from pipelines.stores.store import LocalStore
from t5enc.errors import OutputError, SourceError
from tests.pipelines.actors.fake_encoder import TOO_LARGE, Death, FakeActor, FakeEncoder
from tests.pipelines.one_process import TEXTS, Setting, hide_ray, lay_out, rows_of


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_ray(monkeypatch)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return lay_out(tmp_path)


def test_a_span_becomes_a_shard_a_unit_in_order(setting: Setting) -> None:
    results = setting.run(FakeEncoder())
    assert rows_of(results, "unit") == [0, 3, 6]
    assert setting.stored() == {0: TEXTS[:3], 3: TEXTS[3:6], 6: TEXTS[6:]}
    for result, unit in zip(results, setting.units, strict=True):
        assert result.record == read_footer_record(setting.store, unit.name)


def test_the_ledger_hears_what_was_gained(setting: Setting) -> None:
    setting.run(FakeEncoder(failing=[TEXTS[4]]))
    progress = setting.ledger.read()
    assert (progress.work.units, progress.counts.input_rows, progress.counts.captions, progress.counts.errors) == (
        3,
        8,
        8,
        1,
    )
    assert progress.counts.tokens == progress.work.useful_tokens - len(TEXTS[4]) - 1
    assert progress.work.busy_seconds == 3
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


def run_to_death(setting: Setting, encoder: FakeEncoder, most: int = 20) -> tuple[list[SpanResult], int]:
    """What Ray does: repeat the task in a new process until it ends; results, and how many processes died."""
    for deaths in range(most):
        try:
            return setting.run(encoder), deaths
        except Death:
            continue
    raise AssertionError("the task dies for ever")


def test_a_unit_that_kills_is_left_to_be_encoded_alone(setting: Setting) -> None:
    results, deaths = run_to_death(setting, FakeEncoder(killers=[TEXTS[4]]))
    assert deaths == ATTEMPTS
    assert 3 in rows_of(results, "suspect")
    assert 0 in setting.stored()
    assert sorted(rows_of(results, "suspect") + rows_of(results, "unit")) == [0, 3, 6]
    assert all(result.span == setting.task.span for result in results if result.kind == "suspect")


def test_a_unit_that_kills_while_it_is_tokenized_is_found_too(setting: Setting) -> None:
    class Crashing(FakeEncoder):
        def prepare(self, texts: Sequence[str]) -> Any:
            if TEXTS[0] in texts:
                raise Death
            return super().prepare(texts)

    results, deaths = run_to_death(setting, Crashing())
    assert deaths == ATTEMPTS
    assert rows_of(results, "suspect") == [0]
    assert rows_of(results, "unit") == [3, 6]


def test_a_unit_that_kills_while_it_is_read_is_found_too(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reader_module.read_captions

    def die(*args: Any, skip: Any, **options: Any) -> Iterator[Any]:
        if not skip(0):
            raise Death
        yield from read(*args, skip=skip, **options)

    monkeypatch.setattr(reader_module, "read_captions", die)
    results, deaths = run_to_death(setting, FakeEncoder())
    assert deaths == ATTEMPTS
    assert rows_of(results, "suspect") == [0]


def test_whatever_dies_every_caption_is_stored_but_those_that_kill(setting: Setting) -> None:
    encoder = FakeEncoder(killers=[TEXTS[1], TEXTS[4]])
    results, _ = run_to_death(setting, encoder)
    for suspect in (result for result in results if result.kind == "suspect"):
        assert suspect.span is not None
        assert suspect.unit is not None
        record = encode_alone(setting, encoder, suspect)
        assert record == read_footer_record(setting.store, suspect.unit.name)
    texts = ["" if row in (1, 4) else text for row, text in enumerate(TEXTS)]
    assert setting.stored() == {0: texts[:3], 3: texts[3:6], 6: texts[6:]}


def encode_alone(setting: Setting, encoder: FakeEncoder, suspect: SpanResult) -> UnitRecord:
    actor: Any = FakeActor(encoder)
    assert suspect.span is not None
    assert suspect.unit is not None
    caution = Caution()
    while True:
        try:
            return setting.worker().run_suspect(actor, suspect.span, suspect.unit, caution)
        except Death:
            caution = learn(caution, setting.ledger.take_note(suspect.unit.id))


def test_a_death_while_a_suspect_is_committed_leaves_no_caption_in_hand(setting: Setting) -> None:
    worker, unit = setting.worker(), setting.units[0]
    worker.commit = end_life  # type: ignore[method-assign,assignment]
    with pytest.raises(Death):
        worker.run_suspect(FakeActor(FakeEncoder()), setting.task.span, unit, Caution())  # type: ignore[arg-type]
    assert setting.ledger.take_note(unit.id) == []


def end_life(*_: Any) -> None:
    raise Death


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("unknown")])
def test_a_card_that_fails_ends_the_process_and_counts_as_an_attempt(
    setting: Setting, error: RuntimeError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.actors.worker.os._exit", end_life)
    encode = FakeEncoder.encode_ragged

    def fail(encoder: FakeEncoder, *arguments: Any, **options: Any) -> Any:
        if len(encoder.streams) == 1:
            raise error
        return encode(encoder, *arguments, **options)

    monkeypatch.setattr(FakeEncoder, "encode_ragged", fail)
    with pytest.raises(Death):
        setting.run(FakeEncoder())
    assert setting.stored() == {0: TEXTS[:3]}, "what was in the writer's hands is committed"
    assert setting.ledger.attempts[setting.units[1].id] == ["here"]
    assert f"its device failed: {type(error).__name__}: {error}" in capsys.readouterr().err


def test_a_suspect_whose_card_fails_ends_its_process(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("pipelines.actors.worker.os._exit", end_life)
    monkeypatch.setattr(FakeEncoder, "encode_ragged", fail)
    actor: Any = FakeActor(FakeEncoder())
    with pytest.raises(Death):
        setting.worker().run_suspect(actor, setting.task.span, setting.units[0], Caution())


def test_a_suspect_that_was_committed_meanwhile_is_not_encoded_again(setting: Setting) -> None:
    results = setting.run(FakeEncoder())
    suspect = SpanResult(kind="suspect", span=setting.task.span, unit=setting.units[0])
    encoder = FakeEncoder()
    assert encode_alone(setting, encoder, suspect) == results[0].record
    assert encoder.streams == []


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
    assert read_throughput(actor) - before == Work(useful_tokens=7, busy_seconds=2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_prefetched_items_come_in_order(count: int) -> None:
    assert list(prefetch(range(count))) == list(range(count))


def test_an_error_of_the_producer_is_raised_after_what_came_before() -> None:
    def produce() -> Iterator[int]:
        yield 1
        raise SourceError("gone")

    items = prefetch(produce())
    assert next(items) == 1
    with pytest.raises(SourceError, match="gone"):
        next(items)


def test_no_more_is_produced_than_is_asked_for_and_one_ahead() -> None:
    made: list[int] = []
    ended = threading.Event()

    def produce() -> Iterator[int]:
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            ended.set()

    items = prefetch(produce())
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert ended.wait(60)
    assert len(made) <= 4
