"""The batcher: whoever leaves, and whatever happens, each caller gets its own embeddings, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t5enc.actor import EncoderActor
from t5enc.errors import OverloadedError
from t5enc.online.batcher import Batcher
from t5enc.online.calls import Served
from t5enc.options import EncoderOptions
from t5enc.text.prompts import Prompt
from t5enc.text_encoder import TextEncoder
from tests.t5enc.hf.gate import Gate, Ids
from tests.t5enc.online.callers import BUDGET, as_prompt, ask, cancel, check_own, in_loop, make_batcher, text
from tests.t5enc.test_actor import CountTokens


@in_loop
async def test_a_call_without_texts_is_answered_without_the_model() -> None:
    gate = Gate()
    assert await make_batcher(gate).encode([]) == Served([], 0.0, 0.0)
    assert not gate.turns


@in_loop
async def test_a_cancelled_callers_texts_never_reach_the_model() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    first = await ask(batcher, text(1))
    gate.hold()
    leaving = await ask(batcher, text(2), text(3))
    staying = await ask(batcher, text(4))
    await cancel(leaving)
    assert batcher.snapshot().queued_tokens == 8
    gate.release()
    gate.run_all()
    check_own([*await first, *await staying], [text(1), text(4)])
    assert gate.batches == [[text(1)], [text(4)]]


@in_loop
async def test_when_all_leave_before_the_turn_the_model_computes_nothing() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    await cancel(await ask(batcher, text(1)))
    gate.run_all()
    assert not gate.batches
    task = await ask(batcher, text(2))
    gate.run_all()
    check_own(await task, [text(2)])


@in_loop
async def test_a_caller_who_leaves_while_his_batch_runs_disturbs_nobody() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    leaving, staying = await ask(batcher, text(1)), await ask(batcher, text(2))
    gate.hold()
    await cancel(leaving)
    gate.release()
    check_own(await staying, [text(2)])
    assert batcher.snapshot().running_tokens == 0


@in_loop
async def test_draining_finishes_what_is_queued_and_takes_nothing_new() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    accepted = [await ask(batcher, text(number)) for number in range(1, 6)]
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="closed"):
        await batcher.encode([as_prompt(text(9))])
    while gate.turns:
        assert not draining.done()
        gate.step()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await draining
    check_own([hidden for task in accepted for hidden in await task], [text(n) for n in range(1, 6)])


@in_loop
async def test_draining_waits_for_the_batch_that_runs() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    task = await ask(batcher, text(1))
    gate.hold()
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    gate.release()
    gate.run_all()
    await draining
    assert task.done()
    check_own(await task, [text(1)])


@in_loop
async def test_a_batch_that_does_not_end_is_seen() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    assert not batcher.is_stuck(-1.0)
    task = await ask(batcher, text(1))
    assert not batcher.is_stuck(-1.0)  # nothing runs yet
    gate.hold()
    assert batcher.is_stuck(-1.0)
    assert not batcher.is_stuck(3600.0)
    gate.release()
    assert not batcher.is_stuck(-1.0)
    await task


ids = st.lists(st.integers(1, 2), min_size=1, max_size=10).map(tuple)


steps = st.one_of(
    st.lists(ids, max_size=4).map(lambda texts: ("ask", texts)),
    st.integers(0, 30).map(lambda number: ("cancel", number)),
    st.sampled_from([("hold", None), ("release", None)]),
)


@given(script=st.lists(steps, max_size=30), cache_bytes=st.sampled_from([0, 200, 10_000]))
def test_whatever_happens_each_caller_gets_its_own_and_the_queue_comes_to_rest(
    script: list[tuple[str, Any]], cache_bytes: int
) -> None:
    asyncio.run(play(script, cache_bytes))


async def play(script: list[tuple[str, Any]], cache_bytes: int) -> None:
    gate = Gate()
    batcher = make_batcher(gate, cache_bytes=cache_bytes)
    asked: list[tuple[asyncio.Task[list[Tensor]], list[Ids]]] = []
    cancelled: set[int] = set()
    moves: dict[str, Callable[[Any], Awaitable[None]]] = {
        "ask": lambda texts: _ask(batcher, texts, asked),
        "cancel": lambda number: _cancel(number, asked, cancelled),
        "hold": lambda _: _hold(gate),
        "release": lambda _: _release(gate),
    }
    for move, argument in script:
        await moves[move](argument)
    await _release(gate)
    gate.run_all()
    for number, (task, texts) in enumerate(asked):
        if number not in cancelled:
            check_own(await task, texts)
    answered = [texts for number, (_, texts) in enumerate(asked) if number not in cancelled]
    check_rest(batcher, gate, sum(len(texts) for _, texts in asked), sum(map(len, answered)))


def check_rest(batcher: Batcher, gate: Gate, asked: int, answered: int) -> None:
    """Nothing waits or runs, the figures add up, and no batch was over the budget."""
    counts = batcher.snapshot()
    assert (counts.queued_texts, counts.queued_tokens, counts.running_tokens) == (0, 0, 0)
    assert counts.cache_hits + counts.cache_misses == asked
    assert counts.delivered == answered
    assert counts.texts == sum(map(len, gate.batches)) <= counts.cache_misses - counts.coalesced
    assert counts.batches == len(gate.batches)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= BUDGET for batch in gate.batches)
    assert all(len(batch) == len(set(batch)) for batch in gate.batches)


async def _ask(batcher: Batcher, texts: list[Ids], asked: list[tuple[asyncio.Task[list[Tensor]], list[Ids]]]) -> None:
    asked.append((await ask(batcher, *texts), texts))


async def _cancel(number: int, asked: list[tuple[asyncio.Task[list[Tensor]], list[Ids]]], cancelled: set[int]) -> None:
    if number < len(asked) and not asked[number][0].done():
        cancelled.add(number)
        await cancel(asked[number][0])


async def _hold(gate: Gate) -> None:
    if gate.turns and not gate.is_holding:
        gate.hold()


async def _release(gate: Gate) -> None:
    if gate.is_holding:
        gate.release()
        await asyncio.sleep(0)


def test_an_actors_texts_are_those_of_its_encoder() -> None:
    actor = EncoderActor(EncoderOptions(model="builtin:tiny", max_length=32, token_budget=64), CountTokens())
    batcher = Batcher(actor.submit, token_budget=64, queue_tokens=1000, queue_texts=100, cache_bytes=100_000)
    texts = ["a bird", "two birds in a tree", "", "a bird"]
    tokens = [Prompt.of(ids) for ids in actor.encoder.tokenize(texts).ids]
    expected = actor.submit(TextEncoder.encode, texts).result()

    async def crowd() -> list[list[Tensor]]:
        return [served.hidden for served in await asyncio.gather(*(batcher.encode([text]) for text in tokens * 5))]

    for place, hidden in enumerate(asyncio.run(crowd())):
        torch.testing.assert_close(hidden[0], expected[place % len(texts)], atol=2e-5, rtol=2e-5)
    asyncio.run(batcher.drain())
