"""Items made by a thread of their own, a few ahead of who takes them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """The same items, made by a thread of their own up to `depth` ahead; its exception is raised here."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    is_closed = threading.Event()

    def put(kind: str, item: Any) -> None:
        while not is_closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, item), timeout=0.1)
                return

    def produce() -> None:
        try:
            for item in items:
                put("item", item)
                if is_closed.is_set():
                    return
            put("end", None)
        except BaseException as error:  # handed to the consumer, which raises it
            put("error", error)

    threading.Thread(target=produce, name="reader", daemon=True).start()
    try:
        while (got := ready.get())[0] == "item":
            yield got[1]
        if got[0] == "error":
            raise got[1]
    finally:
        is_closed.set()
