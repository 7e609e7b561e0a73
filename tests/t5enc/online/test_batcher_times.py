"""What the batcher says of time: how long each call waited, how long it was computed, when to come back."""

from __future__ import annotations

import pytest

from t5enc.errors import OverloadedError
from tests.t5enc.hf.gate import Gate
from tests.t5enc.online.callers import Clock, as_prompt, ask, ask_for_times, check_own, in_loop, make_batcher, text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The batcher's; only the test moves it."""
    clock = Clock()
    monkeypatch.setattr("t5enc.online.batcher.time", clock)
    return clock


@in_loop
async def test_waiting_and_computing_are_timed_and_say_when_to_come_back(clock: Clock) -> None:
    gate = Gate()
    batcher = make_batcher(gate, queue_texts=3)
    tasks = [await ask(batcher, text(1), text(2), text(3))]
    clock.now += 5.0
    gate.hold()  # two of them, 16 tokens
    clock.now += 8.0
    gate.release()
    counts = batcher.snapshot()
    assert (counts.seconds_queued, counts.seconds_computing) == (10.0, 8.0)
    assert (counts.last_batch_texts, counts.last_batch_tokens, counts.queued_texts) == (2, 16, 1)
    tasks.append(await ask(batcher, text(4), text(5)))
    with pytest.raises(OverloadedError) as no:
        await batcher.encode([as_prompt(text(6))])
    assert no.value.retry_after == 24 * 8.0 / 16  # 24 tokens wait, 16 took 8 seconds
    gate.run_all()
    check_own([hidden for task in tasks for hidden in await task], [text(n) for n in range(1, 6)])


@in_loop
async def test_a_call_waits_until_its_first_text_is_taken_and_is_computed_until_its_last_is_through(
    clock: Clock,
) -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    first = await ask_for_times(batcher, text(1))
    gate.hold()
    clock.now += 1.0
    several = await ask_for_times(batcher, text(2), text(3), text(4))  # two batches
    last = await ask_for_times(batcher, text(5))  # shares the second of them
    clock.now += 2.0
    gate.release()
    for seconds in (4.0, 8.0):
        gate.hold()
        clock.now += seconds
        gate.release()
    assert [await call for call in (first, several, last)] == [(0.0, 3.0), (2.0, 12.0), (6.0, 8.0)]


@in_loop
async def test_texts_in_the_model_and_finished_ones_are_not_waited_for(clock: Clock) -> None:
    gate = Gate()
    batcher = make_batcher(gate, cache_bytes=10_000)
    first = await ask_for_times(batcher, text(1))
    gate.hold()
    clock.now += 1.0
    joining = await ask_for_times(batcher, text(1))
    clock.now += 2.0
    gate.release()
    clock.now += 4.0
    assert [await call for call in (first, joining)] == [(0.0, 3.0), (0.0, 2.0)]
    assert await (await ask_for_times(batcher, text(1))) == (0.0, 0.0)


@in_loop
async def test_a_call_with_one_finished_text_waits_for_the_other(clock: Clock) -> None:
    gate = Gate()
    batcher = make_batcher(gate, cache_bytes=10_000)
    await ask(batcher, text(1))
    gate.run_all()
    call = await ask_for_times(batcher, text(1), text(2))
    clock.now += 1.0
    gate.hold()
    clock.now += 2.0
    gate.release()
    assert await call == (1.0, 2.0)
