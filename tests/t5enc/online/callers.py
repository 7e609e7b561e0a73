"""Callers of a batcher that is a test's own, and texts that no mix-up goes unseen with."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pytest
from torch import Tensor

from t5enc.online.batcher import Batcher
from t5enc.online.calls import Served
from t5enc.text.prompts import Prompt
from tests.t5enc.hf.gate import DIM, PATIENCE, Gate, Ids

P = ParamSpec("P")
R = TypeVar("R")

BUDGET = 16


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that is a coroutine; what its event loop would only log fails it, too."""

    async def watch(*args: P.args, **kwargs: P.kwargs) -> None:
        logged: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        await asyncio.wait_for(test(*args, **kwargs), PATIENCE)
        await asyncio.sleep(0)
        assert not logged

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(watch(*args, **kwargs))

    return run


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def make_batcher(gate: Gate, **changed: Any) -> Batcher:
    limits = {"token_budget": BUDGET, "queue_tokens": 1000, "queue_texts": 100} | changed
    return Batcher(gate.submit, **limits)


def text(number: int, length: int = 8) -> Ids:
    """Ids that no other number has."""
    return (number,) * length


def as_prompt(ids: Ids) -> Prompt:
    """A text without pads."""
    return Prompt.of(np.array(ids, np.int32))


async def ask(batcher: Batcher, *texts: Ids) -> asyncio.Task[list[Tensor]]:
    """A caller whose texts are in the queue when this returns."""
    return await _start(_embed(batcher, texts))


async def ask_for_times(batcher: Batcher, *texts: Ids) -> asyncio.Task[tuple[float, float]]:
    """The same; it gets the seconds that it was queued and computed for."""
    return await _start(_time(batcher, texts))


async def cancel(task: asyncio.Task[list[Tensor]]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def check_own(hidden: Sequence[Tensor], texts: Sequence[Ids]) -> None:
    """Each embedding is that of its text."""
    assert [tuple(part[:, 0].int().tolist()) for part in hidden] == list(texts)
    assert all(part.shape == (len(ids), DIM) for part, ids in zip(hidden, texts, strict=True))


def count_overtakers(batches: Sequence[Sequence[Ids]], arrived: Sequence[Ids], waiting: Ids) -> int:
    """Batches before that of `waiting` (all of them where it has none) with a text that came later than it."""
    later = set(arrived[arrived.index(waiting) + 1 :])
    place = next((place for place, batch in enumerate(batches) if waiting in batch), len(batches))
    return sum(bool(later & set(batch)) for batch in batches[:place])


async def _start(caller: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
    task = asyncio.create_task(caller)
    await asyncio.sleep(0)
    return task


async def _embed(batcher: Batcher, texts: Sequence[Ids]) -> list[Tensor]:
    return (await _encode(batcher, texts)).hidden


async def _time(batcher: Batcher, texts: Sequence[Ids]) -> tuple[float, float]:
    served = await _encode(batcher, texts)
    return served.seconds_queued, served.seconds_computing


async def _encode(batcher: Batcher, texts: Sequence[Ids]) -> Served:
    served = await batcher.encode([as_prompt(ids) for ids in texts])
    check_own(served.hidden, texts)
    return served
