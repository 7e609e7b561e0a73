"""What all requests hold together, of bytes or characters, until they are answered: bounded, whoever asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from t5enc.errors import OverloadedError

# Seconds to come back after.
RETRY_SECONDS = 1.0
# What ends with a request that is being answered; its handlers run in its context.
HELD: ContextVar[ExitStack] = ContextVar("held")


@contextmanager
def hold_until_answered() -> Iterator[None]:
    """What is taken of any memory inside is given back at the end, however that comes."""
    with ExitStack() as stack:
        token = HELD.set(stack)
        try:
            yield
        finally:
            HELD.reset(token)


class Memory:
    """So much of `unit` may be held at once. Any thread may use it."""

    def __init__(self, unit: str, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._unit = unit
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        """Hold so much until the request is answered; OverloadedError, and nothing held, where there is none left."""
        stack = HELD.get()
        with self._lock:
            if self.held + amount > self.limit:
                found = f"{self.held} are held and {amount} more are asked for"
                raise OverloadedError(f"expected at most {self.limit} {self._unit} at once, {found}", RETRY_SECONDS)
            self.held += amount
        stack.callback(self._give, amount)

    def _give(self, amount: int) -> None:
        with self._lock:
            self.held -= amount
