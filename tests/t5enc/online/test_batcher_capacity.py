"""What fits into the batcher's queue: a call as a whole or not at all, pads too."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from t5enc.errors import InputError, OverloadedError
from t5enc.online.batcher import Batcher
from t5enc.text.prompts import Document, Prompt
from tests.t5enc.hf.gate import Gate
from tests.t5enc.online.callers import as_prompt, ask, check_own, in_loop, make_batcher, text


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
