"""Clients of a server as a benchmark needs them: so many at once, or one request after the other at a given rate.

Each request carries one prompt. Times are in seconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

# What sends one prompt and returns when the whole answer is there.
Ask = Callable[[str], Awaitable[object]]


@dataclass(slots=True)
class Run:
    """The time that each request took, in the order of their ends, and that all of them took."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def quantile(self, share: float) -> float:
        """The latency that this share of the requests stayed within."""
        return float(np.quantile(self.latencies, share))


async def run_closed(ask: Ask, prompts: Sequence[str], clients: int) -> Run:
    """So many clients, each of which sends the next prompt as soon as its last one is answered."""
    run, waiting = Run(), iter(prompts)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_keep_asking(ask, waiting, run))
    run.seconds = time.perf_counter() - started
    return run


async def _keep_asking(ask: Ask, waiting: Iterator[str], run: Run) -> None:
    for prompt in waiting:
        sent = time.perf_counter()
        await ask(prompt)
        run.latencies.append(time.perf_counter() - sent)


async def run_open(ask: Ask, prompts: Sequence[str], rate: float, seed: int = 0) -> Run:
    """`rate` prompts a second, at random moments (a Poisson process), whether or not the last ones are answered.

    A latency counts from the moment at which the prompt was due: a client that comes late to send it hides nothing.
    """
    run, draw = Run(), random.Random(seed)
    started = due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for prompt in prompts:
            due += draw.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(_ask_once(ask, prompt, due, run))
    run.seconds = time.perf_counter() - started
    return run


async def _ask_once(ask: Ask, prompt: str, due: float, run: Run) -> None:
    await ask(prompt)
    run.latencies.append(time.perf_counter() - due)
