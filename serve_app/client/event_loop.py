"""An event loop on a thread of its own, for callers that are not asynchronous, or whose own loop is running."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from t5enc.errors import ConfigError, ServiceError

R = TypeVar("R")


class LoopThread:
    """Runs coroutines to their end while the caller waits."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """What the coroutine returns; an interrupted caller cancels it.

        Raises ConfigError in a forked process and after `stop`, ServiceError where `stop` came before the end.
        """
        if os.getpid() != self._pid:
            coroutine.close()
            raise ConfigError(f"a client made in process {self._pid} cannot be used in {os.getpid()}: make one there")
        if self._is_stopping:
            coroutine.close()
            raise ConfigError("this client was closed: expected one that is open")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise ServiceError("the client was closed before the answer was there") from error
        except BaseException:
            future.cancel()
            raise

    def stop(self, last: Callable[[], Awaitable[None]]) -> None:
        """Have the loop do `last` and end. Does not wait: a garbage collector may call this on any thread."""
        self._is_stopping = True
        if os.getpid() == self._pid:
            asyncio.run_coroutine_threadsafe(self._end(last), self._loop)

    def join(self) -> None:
        """Wait until the loop has ended."""
        self._thread.join()

    async def _end(self, last: Callable[[], Awaitable[None]]) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:  # their callers raise CancelledError instead of waiting for ever
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        try:
            await last()
        finally:
            self._loop.stop()

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.close()
