"""Trying again: throttling, server errors and lost connections go by, refusals do not."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

T = TypeVar("T")

# Seconds for which trouble that passes is met with another attempt, and the HTTP statuses that tell of it.
PATIENCE = 300.0
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
FIRST_WAIT = 0.1
LONGEST_WAIT = 20.0


class Tally:
    """A number that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.number = 0

    def add(self) -> None:
        """One more."""
        with self._lock:
            self.number += 1


_retries = Tally()


def count_retries() -> int:
    """Requests to stores that this process has made again so far."""
    return _retries.number


def retry(attempt: Callable[[], T], patience: Callable[[Exception], float]) -> T:
    """What the first attempt that works returns.

    `patience` says for how many seconds after the first failure such an error is worth another attempt: 0 for one
    that will not pass. Waits double, and each is shortened at random, so that those who failed together do not come
    back together.
    """
    began: float | None = None
    for number in count():
        try:
            return attempt()
        except Exception as error:
            now = time.monotonic()
            began = now if began is None else began
            wait = random.uniform(0.5, 1.0) * min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(number, 30))
            if now - began + wait > patience(error):
                raise
        _retries.add()
        time.sleep(wait)
    raise AssertionError("unreachable: count() does not end")
