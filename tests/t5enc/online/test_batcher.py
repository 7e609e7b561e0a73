"""The batcher: cancellation, capacity, sharing, failures; every text gets its own embedding."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t5enc.actor import EncoderActor
from t5enc.errors import InputError, OverloadedError, PrecisionError
from t5enc.online.batcher import Batcher
from t5enc.online.calls import Served, copy_error
from t5enc.options import EncoderOptions
from t5enc.text.prompts import Document, Prompt
from t5enc.text_encoder import TextEncoder
from tests.t5enc.hf.gate import DIM, TOO_LARGE, Gate, Ids
from tests.t5enc.online.callers import BUDGET, as_prompt, ask, cancel, check_own, in_loop, make_batcher, text
from tests.t5enc.test_actor import CountTokens

# A text of eight tokens has an embedding of eight rows of two float32 numbers; its key has sixteen bytes beside
# the ids: what is kept, attended to, and done to the rows.
BYTES_OF_EIGHT = 8 * DIM * 4 + 8 * 4 + 16


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
async def test_equal_texts_in_flight_are_computed_once() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    running = await ask(batcher, text(1))
    gate.hold()
    again = await ask(batcher, text(1), text(2), text(2))
    third = await ask(batcher, text(2))
    gate.release()
    gate.run_all()
    check_own([*await running, *await again, *await third], [text(n) for n in (1, 1, 2, 2, 2)])
    assert gate.batches == [[text(1)], [text(2)]]
    counts = batcher.snapshot()
    assert (counts.cache_misses, counts.coalesced, counts.texts) == (5, 3, 2)


@in_loop
async def test_a_text_that_two_wait_for_stays_when_the_first_leaves() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    first, second = await ask(batcher, text(1)), await ask(batcher, text(1))
    await cancel(first)
    gate.run_all()
    check_own(await second, [text(1)])


@pytest.mark.parametrize("limit", [{"queue_tokens": 20}, {"queue_texts": 2}])
@in_loop
async def test_a_full_queue_refuses_the_whole_call_and_says_when_to_come_back(limit: dict[str, int]) -> None:
    gate = Gate()
    batcher = make_batcher(gate, **limit)
    running = await ask(batcher, text(1))
    gate.hold()
    waiting = await ask(batcher, text(2))
    before = batcher.snapshot()
    with pytest.raises(
        OverloadedError, match=r"queue is full: expected room for 2 texts and 16 tokens, got 1 of"
    ) as no:
        await batcher.encode([as_prompt(text(number)) for number in (3, 4)])
    assert no.value.retry_after >= 1.0
    assert batcher.snapshot() == before
    shared = await ask(batcher, text(1), text(2))  # adds nothing to the queue
    gate.release()
    gate.run_all()
    check_own([*await running, *await waiting, *await shared], [text(n) for n in (1, 2, 1, 2)])
    later = await ask(batcher, text(3), text(4))
    gate.run_all()
    check_own(await later, [text(3), text(4)])


@in_loop
async def test_a_call_that_no_queue_could_take_is_wrong_input() -> None:
    gate = Gate()
    with pytest.raises(InputError, match="expected at most 2 texts and 1000 tokens in a call, got 3 texts and 24 tok"):
        await make_batcher(gate, queue_texts=2).encode([as_prompt(text(n)) for n in (1, 2, 3)])
    assert not gate.turns


@in_loop
async def test_texts_that_fail_are_named_and_their_neighbours_are_not_hurt() -> None:
    gate = Gate(failing=[text(2)])
    batcher = make_batcher(gate, cache_bytes=10_000)
    bad, good = await ask(batcher, text(1), text(2), text(2)), await ask(batcher, text(3))
    gate.run_all()
    with pytest.raises(PrecisionError) as failure:
        await bad
    assert failure.value.failed == {1: TOO_LARGE, 2: TOO_LARGE}
    check_own(await good, [text(3)])
    again = await ask(batcher, text(2))  # a failure is not kept
    gate.run_all()
    with pytest.raises(PrecisionError):
        await again


@in_loop
async def test_texts_that_fail_are_named_in_order_whichever_failed_first() -> None:
    gate = Gate(failing=[text(1), text(2), text(3)])
    batcher = make_batcher(gate)
    first = await ask(batcher, text(3))
    task = await ask(batcher, text(1), text(2), text(3))
    gate.run_all()
    with pytest.raises(PrecisionError) as failure:
        await task
    assert list(failure.value.failed) == [0, 1, 2]
    with pytest.raises(PrecisionError):
        await first


@in_loop
async def test_what_the_model_raises_reaches_those_of_its_batch_alone() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    broken = await ask(batcher, text(1), text(2), text(3))
    after = await ask(batcher, text(4))
    gate.error = RuntimeError("no memory")
    gate.step()
    with pytest.raises(RuntimeError, match="no memory"):
        await broken
    assert batcher.snapshot().queued_texts == 1
    gate.error = None
    gate.run_all()
    check_own(await after, [text(4)])
    assert [text(4)] == gate.batches[-1]


@in_loop
async def test_a_text_for_which_the_model_raises_takes_no_neighbour_along() -> None:
    gate = Gate(raising=[text(3, 2)])
    batcher = make_batcher(gate)
    callers = [await ask(batcher, text(number, 2)) for number in range(1, 9)]
    gate.step()
    with pytest.raises(RuntimeError, match="no memory"):
        await callers.pop(2)
    check_own([(await caller)[0] for caller in callers], [text(number, 2) for number in (1, 2, 4, 5, 6, 7, 8)])
    assert batcher.snapshot().failures_in_a_row == 0


@pytest.mark.parametrize("kind", ["raising", "failing"])
@in_loop
async def test_one_bad_text_again_and_again_is_not_the_models_failure(kind: str) -> None:
    gate = Gate(**{kind: [text(2)]})
    batcher = make_batcher(gate)
    for _ in range(4):
        task = await ask(batcher, text(2))
        gate.run_all()
        with pytest.raises((RuntimeError, PrecisionError)):
            await task
        assert batcher.snapshot().failures_in_a_row == 0


@pytest.mark.parametrize("kind", ["raising", "failing"])
@in_loop
async def test_a_model_that_fails_whatever_it_is_asked_is_counted_until_it_answers(kind: str) -> None:
    gate = Gate(**{kind: [text(2), text(3), (1,)]})
    batcher = make_batcher(gate)
    for count in (1, 2, 3):
        task = await ask(batcher, text(2), text(3))
        gate.run_all()
        with pytest.raises((RuntimeError, PrecisionError)):
            await task
        assert batcher.snapshot().failures_in_a_row == count
    task = await ask(batcher, text(4))
    gate.run_all()
    check_own(await task, [text(4)])
    assert batcher.snapshot().failures_in_a_row == 0


@pytest.mark.parametrize("broken", ["Batcher._copy_kept", "is_model_at_fault"])
@in_loop
async def test_a_batch_that_fails_after_the_model_is_told_to_its_callers_and_counted(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    batcher = make_batcher(gate, cache_bytes=10_000)
    with monkeypatch.context() as patch:
        patch.setattr(f"t5enc.online.batcher.{broken}", run_out_of_memory)
        for count in (1, 2):
            callers = [await ask(batcher, text(1)), await ask(batcher, text(1), text(2))]
            gate.run_all()
            for caller in callers:
                with pytest.raises(MemoryError, match="no room for a copy"):
                    await caller
            counts = batcher.snapshot()
            assert (counts.failures_in_a_row, counts.running_tokens) == (count, 0)
            assert not batcher.is_stuck(-1.0)
    again = await ask(batcher, text(1), text(2))
    gate.run_all()
    check_own(await again, [text(1), text(2)])
    assert batcher.snapshot().failures_in_a_row == 0


def run_out_of_memory(*_: object) -> NoReturn:
    raise MemoryError("no room for a copy")


@in_loop
async def test_each_caller_raises_an_exception_of_its_own() -> None:
    gate = Gate(raising=[text(1)])
    batcher = make_batcher(gate)
    callers = [await ask(batcher, text(1)) for _ in range(2)]
    gate.run_all()
    first, second = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(first, RuntimeError)
    assert isinstance(second, RuntimeError)
    assert first is not second
    assert first.__cause__ is second.__cause__ is not None
    assert str(first) == str(second) == "no memory"


class AwkwardError(Exception):
    """One that its arguments do not make again."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


def test_an_exception_that_cannot_be_copied_is_told_in_words() -> None:
    own = copy_error(AwkwardError(code=7))
    assert (type(own), str(own)) == (RuntimeError, "AwkwardError: code 7")


@in_loop
async def test_a_thread_that_takes_no_more_turns_lets_nobody_wait_for_ever() -> None:
    """The batch that was taken is computed; those behind it are told why they are not."""
    gate = Gate()
    batcher = make_batcher(gate)
    first, behind = await ask(batcher, text(1), text(2)), await ask(batcher, text(3), text(4))
    batcher._submit = refuse
    gate.step()
    check_own(await first, [text(1), text(2)])
    with pytest.raises(RuntimeError, match="shutdown"):
        await behind
    counts = batcher.snapshot()
    assert (counts.queued_texts, counts.queued_tokens, counts.running_tokens) == (0, 0, 0)


@in_loop
async def test_tokens_in_flight_are_in_the_queue_or_running_at_every_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    seen: list[int] = []
    plain = Batcher.__setattr__

    def note(self: Batcher, name: str, value: Any) -> None:
        plain(self, name, value)
        if name == "_counts":
            seen.append(value.queued_tokens + value.running_tokens)

    task = await ask(batcher, text(1), text(2))
    monkeypatch.setattr(Batcher, "__setattr__", note)
    gate.hold()
    assert set(seen) == {16}
    gate.release()
    await task
    assert set(seen) == {0, 16}
    assert seen[-1] == 0


@in_loop
async def test_only_what_is_kept_is_copied_and_it_keeps_no_batch_in_memory() -> None:
    gate = Gate()
    batcher = make_batcher(gate, cache_bytes=BYTES_OF_EIGHT)
    task = await ask(batcher, text(1), text(2))
    gate.run_all()
    view, kept = await task
    assert view.untyped_storage().nbytes() == 2 * kept.nbytes  # the whole batch, as long as the caller has it
    assert kept.untyped_storage().nbytes() == kept.nbytes
    again = await ask(batcher, text(2))
    assert not gate.turns
    assert (await again)[0] is kept


@in_loop
async def test_finished_prompts_are_kept_and_the_one_used_longest_ago_goes_first() -> None:
    gate = Gate()
    batcher = make_batcher(gate, cache_bytes=2 * BYTES_OF_EIGHT)
    for number in (1, 2, 1, 3, 1, 2):  # 3 takes the place of 2
        task = await ask(batcher, text(number))
        gate.run_all()
        check_own(await task, [text(number)])
    assert gate.batches == [[text(1)], [text(2)], [text(3)], [text(2)]]
    counts = batcher.snapshot()
    assert (counts.cache_hits, counts.cache_misses, counts.texts) == (2, 4, 4)


@in_loop
async def test_weights_are_part_of_what_a_prompt_is_kept_by() -> None:
    gate = Gate()
    batcher = make_batcher(gate, cache_bytes=BYTES_OF_EIGHT, weights="a model")
    for _ in range(2):
        task = await ask(batcher, text(1))
        gate.run_all()
        await task
    assert batcher.snapshot().cache_hits == 0  # the name counts: there is no room


@in_loop
async def test_prompts_of_equal_ids_but_other_keys_rows_or_finish_share_nothing() -> None:
    gate = Gate()
    batcher = make_batcher(gate, cache_bytes=10_000, token_budget=64)
    ids = np.array(text(1), np.int32)
    documents = [Document(ids, 8, 8), Document(ids, 5, 8), Document(ids, 8, 6), Document(ids, 8, 8, "add_norms")]
    for is_known in (False, True):
        asked = [asyncio.create_task(batcher.encode([Prompt((document,))])) for document in documents]
        await asyncio.sleep(0)
        gate.run_all()
        served = [await task for task in asked]
        assert [len(one.hidden[0]) for one in served] == [8, 8, 6, 8]
        assert batcher.snapshot().cache_hits == (4 if is_known else 0)
    assert (batcher.snapshot().coalesced, batcher.snapshot().texts) == (0, 4)


@in_loop
async def test_pads_that_are_computed_count_in_the_queue_and_in_the_budget() -> None:
    gate = Gate()
    batcher = make_batcher(gate, queue_tokens=30)
    padded = [Prompt((Document(np.array([*text(number, 2), *[0] * 10], np.int32), 12, 2),)) for number in (1, 2)]
    task = asyncio.create_task(batcher.encode(padded))
    await asyncio.sleep(0)
    assert batcher.snapshot().queued_tokens == 24
    with pytest.raises(OverloadedError, match=r"got 2 of 100 texts and 24 of 30 tokens waiting"):
        await batcher.encode([as_prompt(text(3))])
    gate.run_all()
    check_own((await task).hidden, [text(1, 2), text(2, 2)])
    assert [len(batch) for batch in gate.batches] == [1, 1]


@in_loop
async def test_a_prompt_without_documents_has_no_rows_and_takes_no_room() -> None:
    gate = Gate()
    batcher = make_batcher(gate, queue_tokens=8, cache_bytes=100)
    task = asyncio.create_task(batcher.encode([Prompt(()), as_prompt(text(1)), Prompt(())]))
    await asyncio.sleep(0)
    gate.run_all()
    check_own((await task).hidden, [(), text(1), ()])


@in_loop
async def test_a_kept_prompt_keeps_no_batch_in_memory() -> None:
    gate = Gate()
    task = await ask(make_batcher(gate, cache_bytes=10_000), text(1), text(2))
    gate.run_all()
    for hidden in await task:
        assert hidden.untyped_storage().nbytes() == hidden.nbytes


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


def refuse(function: Callable[[TextEncoder], None]) -> Future[None]:
    """What an executor does that is shut down."""
    raise RuntimeError("cannot schedule new futures after shutdown")


@in_loop
async def test_an_actor_that_takes_no_work_leaves_nothing_in_the_queue() -> None:
    batcher = Batcher(refuse, token_budget=16, queue_tokens=100, queue_texts=10)
    with pytest.raises(RuntimeError, match="shutdown"):
        await batcher.encode([as_prompt(text(1))])
    assert (batcher.snapshot().queued_texts, batcher.snapshot().queued_tokens) == (0, 0)


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
