"""Many calls in flight at once, and few results in memory: reads of object stores wait more than they work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = 16
# Calls for each thread that are begun before the first result is taken.
CALLS_PER_THREAD = 4


def map_concurrently(function: Callable[[T], R], items: Iterable[T], *, threads: int = THREADS) -> Iterator[R]:
    """`map` with threads: results in order, no more of them waiting than a few for each thread."""
    told = iter(items)
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="concurrent")
    try:
        waiting.extend(pool.submit(function, item) for item in islice(told, CALLS_PER_THREAD * threads))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(told, 1))
    finally:
        pool.shutdown(cancel_futures=True)
