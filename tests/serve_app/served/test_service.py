"""A model as a service: what it takes, what it answers, and how it says that it is well."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
import torch

from serve_app.served.service import ModelService, ServiceLimits
from t5enc.checkpoint.builtin import open_builtin
from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.opening import open_model
from t5enc.errors import ConfigError, InputError, OverloadedError, PrecisionError, TooLongError
from t5enc.online.calls import Served
from t5enc.options import EncoderOptions, ModelSource
from t5enc.text.prompts import Prompt
from t5enc.text_encoder import TextEncoder

OPTIONS = EncoderOptions(model="builtin:tiny", max_length=32, token_budget=64)
LIMITS = ServiceLimits(max_length=24, max_texts=8, queue_tokens=4096, queue_texts=256)
TEXTS = ["a bird", "", "two birds in a tree", "a bird", "Ü 🐦"]


@pytest.fixture(scope="module")
def service() -> ModelService:
    return ModelService("tiny", OPTIONS, LIMITS)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    """The same model without a service."""
    return TextEncoder.load(OPTIONS)


def make_service(**changed: Any) -> ModelService:
    return ModelService("tiny", OPTIONS, ServiceLimits(max_length=24, max_texts=8, **changed))


def make_prompt(*ids: int) -> Prompt:
    return Prompt.of(np.array(ids, dtype=np.int32))


def list_ids(prompt: Prompt) -> list[int]:
    """Those of a text's only document."""
    (document,) = prompt.documents
    return document.ids.tolist()


def test_it_says_what_it_is(service: ModelService, encoder: TextEncoder) -> None:
    assert (service.name, service.dim, service.limits) == ("tiny", encoder.config.model_dim, LIMITS)
    assert service.options == encoder.options
    assert service.options.dtype == "float32"
    assert service.fingerprint == open_builtin("tiny").fingerprint()


def test_a_model_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def note(source: ModelSource) -> Checkpoint:
        opened.append(source)
        return open_model(source)

    monkeypatch.setattr("serve_app.served.service.open_model", note)
    monkeypatch.setattr("t5enc.text_encoder.open_model", note)
    ModelService("tiny", OPTIONS, LIMITS)
    assert opened == [OPTIONS.source]


def test_texts_become_the_embeddings_of_the_bare_encoder(service: ModelService, encoder: TextEncoder) -> None:
    async def serve() -> list[torch.Tensor]:
        prepared = await service.tokenize(TEXTS, truncate=False)
        return (await service.encode(prepared.prompts)).hidden

    hidden = asyncio.run(serve())
    for ours, bare in zip(hidden, encoder.encode(TEXTS), strict=True):
        torch.testing.assert_close(ours, bare, atol=2e-5, rtol=2e-5)


def test_callers_at_the_same_time_each_get_their_own(service: ModelService, encoder: TextEncoder) -> None:
    texts = [f"bird number {number}" for number in range(40)]

    async def call(text: str) -> torch.Tensor:
        return (await service.encode((await service.tokenize([text], truncate=False)).prompts)).hidden[0]

    async def crowd() -> list[torch.Tensor]:
        return await asyncio.gather(*map(call, texts))

    for ours, bare in zip(asyncio.run(crowd()), encoder.encode(texts), strict=True):
        torch.testing.assert_close(ours, bare, atol=2e-5, rtol=2e-5)
    counts = service.snapshot()
    assert (counts.queued_texts, counts.queued_tokens, counts.running_tokens) == (0, 0, 0)


def test_tokens_are_cut_only_where_the_caller_agrees(service: ModelService) -> None:
    long = "bird " * 100
    with pytest.raises(TooLongError, match=r"texts\[1\]: expected at most 24 tokens, got 201") as error:
        asyncio.run(service.tokenize(["a bird", long], truncate=False))
    assert (error.value.index, error.value.tokens, error.value.limit) == (1, 201, 24)
    cut = asyncio.run(service.tokenize(["a bird", long], truncate=True))
    assert cut.truncated == [False, True]
    assert [prompt.tokens for prompt in cut.prompts] == [len(service.split_text("a bird")), 24]
    assert [list_ids(prompt)[-1] for prompt in cut.prompts] == [1, 1]


def test_a_text_is_cut_at_its_start_where_the_caller_says_so(service: ModelService) -> None:
    text = "bird " * 20 + "two birds in a tree"
    whole = [token for token, *_ in service.split_text(text)]
    found = asyncio.run(service.tokenize([text, "a bird"], truncate=True, cut="start"))
    assert list_ids(found.prompts[0]) == whole[-24:]
    assert found.truncated == [True, False]


def test_what_is_not_text_is_refused_by_place(service: ModelService) -> None:
    with pytest.raises(InputError, match=r"texts\[1\]: expected Unicode text, got a lone surrogate"):
        asyncio.run(service.tokenize(["a", "\ud83d"], truncate=True))


def test_texts_are_tokenized_beside_the_event_loop(service: ModelService, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    tokenize = service._tokenize

    def note(*args: Any) -> Any:
        names.append(threading.current_thread().name)
        return tokenize(*args)

    monkeypatch.setattr(service, "_tokenize", note)
    asyncio.run(service.tokenize(["a bird"], truncate=True))
    assert names[0].startswith("tokenizer")


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([[5], []], r"ids\[1\]: expected 1 to 32 token ids"),
        ([[5, 1000]], r"ids\[0\]: expected ids from 0 to 999, got 1000"),
        ([[-1]], r"ids\[0\]: expected ids from 0 to 999, got -1"),
        ([[2**70]], r"ids\[0\]: expected integers"),
        ([[1.5]], r"ids\[0\]: expected integers"),
        ([[True]], r"ids\[0\]: expected integers"),
        ([[[1]]], r"ids\[0\]: expected 1 to 32 token ids, got shape"),
        ([[1, [2]]], r"ids\[0\]: expected a flat list"),
        ([[5] * 25], r"texts\[0\]: expected at most 24 tokens, got 25"),
    ],
)
def test_ids_that_no_model_could_take_are_refused(service: ModelService, ids: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        service.take_ids(ids, truncate=False)


def test_ids_are_cut_only_where_the_caller_agrees(service: ModelService) -> None:
    long = [*range(5, 45), 1]
    for cut, kept in (("end", [*range(5, 28), 1]), ("start", [*range(22, 45), 1])):
        taken = service.take_ids([[5, 1], long], truncate=True, cut=cut)
        assert [list_ids(prompt) for prompt in taken.prompts] == [[5, 1], kept]
        assert taken.truncated == [False, True]


def test_ids_of_a_callers_own_are_taken_as_they_are(service: ModelService, encoder: TextEncoder) -> None:
    prompts = service.take_ids([[5, 6], [7]], truncate=False).prompts
    assert [list_ids(prompt) for prompt in prompts] == [[5, 6], [7]]
    hidden = asyncio.run(service.encode(prompts)).hidden
    for ours, bare in zip(hidden, encoder.encode_tokens([[5, 6], [7]]), strict=True):
        torch.testing.assert_close(ours, bare, atol=2e-5, rtol=2e-5)


def test_ids_are_read_back_as_text(service: ModelService) -> None:
    ids = list_ids(asyncio.run(service.tokenize(["a red bird"], truncate=False)).prompts[0])
    assert service.decode(ids) == "a red bird"
    assert service.decode(ids, skip_special_tokens=False) == "a red bird</s>"
    for wrong in (-1, 1000, 2**70):
        with pytest.raises(InputError, match=f"ids: expected ids from 0 to 999, got {wrong}"):
            service.decode([5, wrong])


def test_tokens_are_those_of_the_whole_text(service: ModelService) -> None:
    text = "bird " * 100
    pieces = service.split_text(text)
    assert len(pieces) == 201
    token, piece, special, start, stop = pieces[0]
    prepared = asyncio.run(service.tokenize([text], truncate=True))
    assert (token, special) == (list_ids(prepared.prompts[0])[0], False)
    assert (piece, text[start:stop]) == ("▁bir", "bir")


def test_prompts_asked_for_again_are_not_computed_again() -> None:
    service = make_service()
    prompts = asyncio.run(service.tokenize(TEXTS, truncate=False)).prompts
    first, again = asyncio.run(service.encode(prompts)), asyncio.run(service.encode(prompts))
    assert all(torch.equal(*pair) for pair in zip(first.hidden, again.hidden, strict=True))
    assert first.seconds_queued + first.seconds_computing > 0.0
    assert (again.seconds_queued, again.seconds_computing) == (0.0, 0.0)
    counts = service.snapshot()
    assert (counts.cache_hits, counts.cache_misses, counts.coalesced, counts.texts) == (5, 5, 1, 4)


def test_a_model_that_stands_still_is_unhealthy() -> None:
    service = make_service(stuck_seconds=1e-9)
    inside, free = threading.Event(), threading.Event()
    encode = service._actor.encoder.encode_ragged

    def stand_still(*args: Any, **kwargs: Any) -> Any:
        inside.set()
        free.wait()
        return encode(*args, **kwargs)

    async def ask() -> None:
        task = asyncio.create_task(service.encode([make_prompt(5)]))
        await asyncio.to_thread(inside.wait)
        assert not service.is_healthy()
        free.set()
        await task

    assert service.is_healthy()
    service._actor.encoder.encode_ragged = stand_still  # type: ignore[method-assign]
    asyncio.run(ask())
    assert service.is_healthy()


def test_a_model_that_fails_each_time_is_unhealthy_and_one_that_failed_once_is_not() -> None:
    service = make_service(cache_bytes=0)
    encode = service._actor.encoder.encode_ragged

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def ask(count: int) -> None:
        for _ in range(count):
            with pytest.raises(RuntimeError, match="illegal memory access"):
                asyncio.run(service.encode([make_prompt(5)]))

    service._actor.encoder.encode_ragged = fail  # type: ignore[method-assign]
    ask(2)
    assert service.is_healthy()
    ask(1)
    assert not service.is_healthy()
    service._actor.encoder.encode_ragged = encode  # type: ignore[method-assign]
    asyncio.run(service.encode([make_prompt(5)]))
    assert service.is_healthy()


def test_a_model_of_nothing_but_nan_is_unhealthy() -> None:
    service = make_service(cache_bytes=0)
    with torch.no_grad():
        for weight in service._actor.encoder.encoder.parameters():
            weight.fill_(torch.nan)
    for _ in range(3):
        assert service.is_healthy()
        with pytest.raises(PrecisionError):
            asyncio.run(service.encode([make_prompt(5)]))
    assert not service.is_healthy()


def test_a_closed_service_has_answered_all_and_takes_nothing_new() -> None:
    service = make_service()

    async def close() -> list[Served]:
        asked = [asyncio.create_task(service.encode([make_prompt(number, 1)])) for number in range(5, 45)]
        await asyncio.sleep(0)
        await service.close()
        with pytest.raises(OverloadedError, match="closed"):
            await service.encode((await service.tokenize(["late"], truncate=True)).prompts)
        return await asyncio.gather(*asked)

    assert [served.hidden[0].shape for served in asyncio.run(close())] == [(2, service.dim)] * 40


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"max_texts": 0}, "max_texts: expected more than 0, got 0"),
        ({"cache_bytes": -1}, "cache_bytes: expected 0"),
        ({"stuck_seconds": 0.0}, "stuck_seconds: expected more than 0"),
        ({"max_texts": 10, "queue_texts": 9}, r"queue_texts: expected at least max_texts \(10\), got 9"),
        ({"max_length": 10, "queue_tokens": 9}, r"queue_tokens: expected at least max_length \(10\), got 9"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ServiceLimits(**limits)


def test_a_service_takes_no_longer_texts_than_its_model() -> None:
    with pytest.raises(ConfigError, match="at most the model's 32, got 33"):
        ModelService("tiny", OPTIONS, ServiceLimits(max_length=33))
