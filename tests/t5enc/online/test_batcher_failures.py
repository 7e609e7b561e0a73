"""Failures under the batcher: told to whom they concern, by name, and counted where the model is at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import NoReturn

import pytest

from t5enc.errors import PrecisionError
from t5enc.online.batcher import Batcher
from t5enc.online.calls import copy_error
from t5enc.text_encoder import TextEncoder
from tests.t5enc.hf.gate import TOO_LARGE, Gate
from tests.t5enc.online.callers import as_prompt, ask, check_own, in_loop, make_batcher, text


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


def refuse(function: Callable[[TextEncoder], None]) -> Future[None]:
    """What an executor does that is shut down."""
    raise RuntimeError("cannot schedule new futures after shutdown")


@in_loop
async def test_an_actor_that_takes_no_work_leaves_nothing_in_the_queue() -> None:
    batcher = Batcher(refuse, token_budget=16, queue_tokens=100, queue_texts=10)
    with pytest.raises(RuntimeError, match="shutdown"):
        await batcher.encode([as_prompt(text(1))])
    assert (batcher.snapshot().queued_texts, batcher.snapshot().queued_tokens) == (0, 0)
