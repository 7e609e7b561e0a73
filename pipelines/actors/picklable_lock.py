"""One at a time, in an object that travels between processes."""

from __future__ import annotations

import threading


class PicklableLock:
    """A lock that can be pickled: where it arrives, nobody holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[PicklableLock], tuple[()]]:
        return PicklableLock, ()
