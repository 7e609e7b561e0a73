"""Whatever kills an actor is found, unit or card, and every caption is stored but those that kill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from pipelines.actors import reader as reader_module
from pipelines.actors.shards import Caution
from pipelines.actors.tasks import SpanResult
from pipelines.commit.records import UnitRecord, read_footer_record
from pipelines.progress.ledger import ATTEMPTS
from pipelines.run.suspects import learn
from tests.pipelines.actors.fake_encoder import Death, FakeActor, FakeEncoder
from tests.pipelines.one_process import TEXTS, Setting, rows_of


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
