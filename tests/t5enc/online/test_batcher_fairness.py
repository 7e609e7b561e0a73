"""Order and fairness of the batcher: first in, first out, and no text waits for ever."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tests.t5enc.hf.gate import Gate, Ids
from tests.t5enc.online.callers import BUDGET, ask, check_own, count_overtakers, in_loop, make_batcher, text


@in_loop
async def test_an_idle_model_starts_at_once_with_what_is_there() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    first = await ask(batcher, text(1))
    assert len(gate.turns) == 1
    gate.step()
    check_own(await first, [text(1)])
    assert gate.batches == [[text(1)]]


@in_loop
async def test_batches_form_while_the_last_one_runs() -> None:
    gate = Gate()
    batcher = make_batcher(gate)
    first = await ask(batcher, text(1))
    gate.hold()
    others = [await ask(batcher, text(number)) for number in (2, 3, 4)]
    assert (batcher.snapshot().queued_texts, batcher.snapshot().queued_tokens) == (3, 24)
    assert batcher.snapshot().running_tokens == 8
    gate.release()
    gate.run_all()
    check_own([hidden for task in (first, *others) for hidden in await task], [text(n) for n in (1, 2, 3, 4)])
    assert gate.batches == [[text(1)], [text(2), text(3)], [text(4)]]


@in_loop
async def test_the_models_thread_goes_from_batch_to_batch_without_the_event_loop() -> None:
    gate = Gate()
    task = await ask(make_batcher(gate), *map(text, range(1, 8)))
    gate.run_all()  # the loop does not run meanwhile
    assert [len(batch) for batch in gate.batches] == [2, 2, 2, 1]
    check_own(await task, [text(number) for number in range(1, 8)])


@in_loop
async def test_a_text_over_the_budget_runs_alone() -> None:
    gate = Gate()
    long = text(2, BUDGET + 1)
    task = await ask(make_batcher(gate), text(1, 1), long, text(3, 1))
    gate.run_all()
    assert gate.batches == [[text(1, 1)], [long], [text(3, 1)]]
    check_own(await task, [text(1, 1), long, text(3, 1)])


@in_loop
async def test_the_longest_prompt_is_never_overtaken_by_more_than_one_batch() -> None:
    long = text(99, 14)
    shorts = [text(number, 6) for number in range(80)]
    rounds = [[shorts[0], shorts[1], long, shorts[2], shorts[3]]]
    rounds += [shorts[start : start + 2] for start in range(4, 80, 2)]
    gate = Gate()
    batcher = make_batcher(gate)
    tasks = []
    for arriving in rounds:
        tasks += [await ask(batcher, ids) for ids in arriving]
        gate.step()
    gate.run_all()
    arrived = [ids for arriving in rounds for ids in arriving]
    assert count_overtakers(gate.batches, arrived, long) <= 1
    check_own([hidden for task in tasks for hidden in await task], arrived)


@given(rounds=st.lists(st.lists(st.integers(1, BUDGET + 2), max_size=5), max_size=12))
def test_texts_run_in_the_order_in_which_they_came(rounds: list[list[int]]) -> None:
    gate = Gate()
    arrived: list[Ids] = []

    async def arrive() -> None:
        batcher = make_batcher(gate)
        for lengths in rounds:
            new = [text(len(arrived) + place, length) for place, length in enumerate(lengths)]
            arrived.extend(new)
            await ask(batcher, *new)
            if gate.turns:
                gate.step()
        gate.run_all()

    asyncio.run(arrive())
    assert [ids for batch in gate.batches for ids in batch] == arrived
    assert all(sum(map(len, batch)) <= BUDGET or len(batch) == 1 for batch in gate.batches)


@in_loop
async def test_a_batch_takes_all_that_fits() -> None:
    gate = Gate()
    await ask(make_batcher(gate), *(text(number, length) for number, length in enumerate([8, 4, 4, 1, 15, 2])))
    gate.run_all()
    assert [[len(ids) for ids in batch] for batch in gate.batches] == [[8, 4, 4], [1, 15], [2]]
