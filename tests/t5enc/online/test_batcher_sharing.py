"""What the batcher computes once: equal prompts in flight, and finished ones that are kept."""

from __future__ import annotations

import asyncio

import numpy as np

from t5enc.text.prompts import Document, Prompt
from tests.t5enc.hf.gate import DIM, Gate
from tests.t5enc.online.callers import ask, cancel, check_own, in_loop, make_batcher, text

# A text of eight tokens has an embedding of eight rows of two float32 numbers; its key has sixteen bytes beside
# the ids: what is kept, attended to, and done to the rows.
BYTES_OF_EIGHT = 8 * DIM * 4 + 8 * 4 + 16


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
async def test_a_kept_prompt_keeps_no_batch_in_memory() -> None:
    gate = Gate()
    task = await ask(make_batcher(gate, cache_bytes=10_000), text(1), text(2))
    gate.run_all()
    for hidden in await task:
        assert hidden.untyped_storage().nbytes() == hidden.nbytes
