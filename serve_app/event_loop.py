"""An event loop on a thread of its own, for callers that are not asynchronous, or whose own loop is running."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from t5enc.errors import ConfigError

R = TypeVar("R")


class LoopThread:
    """Runs coroutines to their end while the caller waits."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """What the coroutine returns; an interrupted caller cancels it. Raises ConfigError in a forked process."""
        if os.getpid() != self._pid:
            coroutine.close()
            raise ConfigError(f"a client made in process {self._pid} cannot be used in {os.getpid()}: make one there")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self, last: Callable[[], Awaitable[None]]) -> None:
        """Have the loop do `last` and end. Does not wait: a garbage collector may call this on any thread."""
        if os.getpid() == self._pid:
            asyncio.run_coroutine_threadsafe(self._end(last), self._loop)

    def join(self) -> None:
        """Wait until the loop has ended."""
        self._thread.join()

    async def _end(self, last: Callable[[], Awaitable[None]]) -> None:
        try:
            await last()
        finally:
            self._loop.stop()

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.close()
