"""Why the batcher is not `@serve.batch`: there, a text that does not fit goes behind all that came after it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.t5enc.hf.gate import Gate, Ids
from tests.t5enc.online.callers import BUDGET, ask, count_overtakers, make_batcher, text

LONG = text(99, 14)
SHORTS = [text(number, 6) for number in range(80)]
# All wait when the first batch is taken.
BURST = [*SHORTS[:2], LONG, *SHORTS[2:]]

Batches = list[list[Ids]]


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `@serve.batch` asks of the replica that it runs in; there is none."""
    serve = pytest.importorskip("ray.serve", reason="needs ray[serve]")
    deployment = SimpleNamespace(max_ongoing_requests=1000)
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(_deployment_config=deployment))


async def batch_with_serve(texts: list[Ids]) -> Batches:
    """The batches that `@serve.batch` with a `batch_size_fn` makes of texts that are all there."""
    from ray import serve

    batches: Batches = []

    @serve.batch(max_batch_size=BUDGET, batch_wait_timeout_s=0.0, batch_size_fn=lambda batch: sum(map(len, batch)))
    async def encode(batch: list[Ids]) -> list[Ids]:
        batches.append(batch)
        return batch

    assert await asyncio.gather(*map(encode, texts)) == texts
    await stop(encode)
    return batches


async def stop(function: Any) -> None:
    """End the task behind a batched function: its queue, collected after this event loop, would open another one."""
    queue = function._get_max_batch_size.__self__.queue
    task, queue._handle_batch_task = queue._handle_batch_task, None
    task.cancel()
    await asyncio.wait([task])


async def batch_with_ours(texts: list[Ids]) -> Batches:
    """The batches that the batcher makes of the same."""
    gate = Gate()
    batcher = make_batcher(gate)
    tasks = [await ask(batcher, ids) for ids in texts]
    gate.run_all()
    await asyncio.gather(*tasks)
    return gate.batches


def test_the_longest_prompt_is_never_overtaken_by_more_than_one_batch() -> None:
    assert count_overtakers(asyncio.run(batch_with_ours(BURST)), BURST, LONG) <= 1


@pytest.mark.usefixtures("replica")
def test_with_serves_own_batching_it_is_overtaken_by_most_of_a_burst() -> None:
    batches = asyncio.run(batch_with_serve(BURST))
    assert sorted(ids for batch in batches for ids in batch) == sorted(BURST)
    assert count_overtakers(batches, BURST, LONG) > len(batches) // 2
