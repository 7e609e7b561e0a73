"""When a request is made again: after how long, and until when.

Waits grow twofold and are drawn from zero up ("full jitter"), so that callers who were refused together do not come
back together (Brooker 2015, Exponential Backoff and Jitter). What a server asks for in Retry-After comes on top.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from t5enc.errors import OverloadedError, ServiceError, T5encError

FIRST_WAIT = 0.25
LONGEST_WAIT = 8.0
# Doublings from the first wait to past the longest.
DOUBLINGS = 6


class PassingFailureError(Exception):
    """A request that failed for a reason that may be gone at the next attempt.

    `patience` is for how many seconds in a row such a failure is believed to pass.
    """

    def __init__(
        self, reason: str, *, retry_after: float = 0.0, is_overload: bool = False, patience: float = math.inf
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.is_overload = is_overload
        self.patience = patience


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where a client takes time and chance from."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random


class Retries:
    """The attempts at one request, `deadline` seconds in all."""

    def __init__(self, where: str, deadline: float, timing: Timing) -> None:
        """`where` is what errors call the request."""
        self._where = where
        self._deadline = deadline
        self._timing = timing
        self._end = timing.clock() + deadline
        self._attempts = 0
        self._doubted_since: float | None = None

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return max(0.0, self._end - self._timing.clock())

    @property
    def now(self) -> float:
        """By the clock that the deadline is of."""
        return self._timing.clock()

    def excuse(self, seconds: float) -> None:
        """Put the deadline off by what was not the server's time."""
        self._end += seconds

    async def wait(self, failure: PassingFailureError) -> None:
        """Sleep until the next attempt; raises what the failure means where that would be too late."""
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._attempts, DOUBLINGS))
        self._attempts += 1
        seconds = failure.retry_after + self._timing.random() * longest
        if seconds >= min(self.seconds_left, self._patience_left(failure)):
            raise self._give_up(failure) from failure
        await self._timing.sleep(seconds)

    def _patience_left(self, failure: PassingFailureError) -> float:
        """Seconds for which this kind of failure is still believed to pass; another kind in between starts anew."""
        now = self._timing.clock()
        if math.isinf(failure.patience):
            self._doubted_since = None
        elif self._doubted_since is None:
            self._doubted_since = now
        return failure.patience - (now - (self._doubted_since or now))

    def _give_up(self, failure: PassingFailureError) -> T5encError:
        tried = f"{self._attempts} attempt(s) within a deadline of {min(self._deadline, failure.patience):g} s"
        if failure.is_overload:
            return OverloadedError(f"{self._where}: overloaded after {tried}; {failure}", failure.retry_after)
        return ServiceError(f"{self._where}: no usable answer after {tried}; the last: {failure}")
