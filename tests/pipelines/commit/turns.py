"""Runs several users of a store at once, one operation at a time, in an order that a test chooses."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from pipelines.stores.store import Store
from tests.pipelines.commit.memory_store import MemoryStore

User = Callable[[Store], None]


def take_turns(
    store: MemoryStore, users: Sequence[User], order: Iterator[int], check: Callable[[], None]
) -> list[BaseException | None]:
    """Run the users to their ends, `check` after every operation; what each of them raised.

    `order` says who is next, modulo those who are not done; where it ends, the first of them is.
    """
    threads = [_Thread(store, user) for user in users]
    waiting = [thread for thread in threads if thread.advance()]
    while waiting:
        thread = waiting[next(order, 0) % len(waiting)]
        if not thread.advance():
            waiting.remove(thread)
        check()
    return [thread.error for thread in threads]


class _Thread:
    """A user that stops before each operation until it may go on; its own threads stop one by one."""

    def __init__(self, store: MemoryStore, user: User) -> None:
        self._store = store
        self._user = user
        self._news: queue.Queue[bool] = queue.Queue()
        self._may_go = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def advance(self) -> bool:
        """Let it go on up to its next operation; False where it ended instead."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run)
            self._thread.start()
        else:
            self._may_go.release()
        if self._news.get():
            return True
        self._thread.join()
        return False

    def _run(self) -> None:
        try:
            self._user(cast(Store, self))
        except BaseException as error:  # kept for the test
            self.error = error
        self._news.put(False)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._store, name)

        def run(*args: Any) -> Any:
            with self._lock:
                self._news.put(True)
                self._may_go.acquire()
                return operation(*args)

        return run
