"""The actor: one model, one thread that owns it, work in the order it was given."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from t5enc.actor import EncoderActor
from t5enc.errors import ConfigError
from t5enc.options import EncoderOptions
from t5enc.text_encoder import TextEncoder

OPTIONS = EncoderOptions(model="builtin:tiny", max_length=32, token_budget=64)


@dataclass
class CountTokens:
    """Work that adds a column of token counts, and notes what happens when."""

    events: list[str] = field(default_factory=list)

    def starting(self) -> None:
        self.events.append("starting")

    def started(self, actor: EncoderActor) -> None:
        self.events.append(f"started {actor.encoder.options.source.model}")

    def failed(self, error: Exception) -> None:
        self.events.append(f"failed: {error}")

    def __call__(self, actor: EncoderActor, batch: pa.Table) -> pa.Table:
        embeddings = actor.submit(TextEncoder.encode, batch["text"].to_pylist()).result()
        return batch.append_column("tokens", pa.array(embeddings.lengths.tolist()))


@pytest.fixture(scope="module")
def actor() -> EncoderActor:
    return EncoderActor(OPTIONS, CountTokens())


def test_work_hears_of_the_model_before_and_after_it_is_loaded() -> None:
    work = CountTokens()
    EncoderActor(OPTIONS, work)
    assert work.events == ["starting", "started builtin:tiny"]


def test_work_hears_of_a_model_that_cannot_be_loaded() -> None:
    work = CountTokens()
    with pytest.raises(ConfigError):
        EncoderActor(EncoderOptions(model="builtin:unknown"), work)
    assert work.events[0] == "starting"
    assert work.events[1].startswith("failed: builtin:unknown")


def test_a_call_is_what_the_work_makes_of_a_batch(actor: EncoderActor) -> None:
    batch = pa.table({"text": ["", "a bird", "two birds in a tree"]})
    expected = [len(ids) for ids in actor.encoder.tokenize(batch["text"].to_pylist()).ids]
    assert actor(batch)["tokens"].to_pylist() == expected


def test_all_work_runs_on_the_models_own_thread_in_order(actor: EncoderActor) -> None:
    order: list[int] = []

    def note(encoder: TextEncoder, number: int) -> str:
        assert encoder is actor.encoder
        order.append(number)
        return threading.current_thread().name

    names = {future.result() for future in [actor.submit(note, number) for number in range(20)]}
    assert order == list(range(20))
    assert len(names) == 1
    assert names != {threading.current_thread().name}


def test_busy_time_is_that_of_the_work(actor: EncoderActor) -> None:
    before = actor.busy_seconds, actor.busy_cpu_seconds
    actor.submit(TextEncoder.encode, ["a bird"]).result()
    assert actor.busy_seconds > before[0]
    assert actor.busy_cpu_seconds >= before[1]


def test_an_error_reaches_who_asked_and_the_thread_lives_on(actor: EncoderActor) -> None:
    def fail(encoder: TextEncoder) -> None:
        raise ValueError("no")

    before = actor.busy_seconds
    with pytest.raises(ValueError, match="no"):
        actor.submit(fail).result()
    assert actor.busy_seconds > before
    assert len(actor.submit(TextEncoder.encode, ["a bird"]).result()) == 1


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_constructor() -> None:
    with pytest.raises(ConfigError, match="builtin:huge"):
        EncoderActor(EncoderOptions(model="builtin:huge"), CountTokens())


def test_the_public_name_is_the_class() -> None:
    import t5enc

    assert t5enc.EncoderActor is EncoderActor
    assert t5enc.EncoderOptions is EncoderOptions
    assert t5enc.TextEncoder is TextEncoder
    with pytest.raises(AttributeError, match="has no attribute 'Encoder'"):
        t5enc.Encoder  # noqa: B018
    assert set(t5enc.__all__) <= set(dir(t5enc))
