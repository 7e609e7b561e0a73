"""A disk that stops a run at its n-th write, as a kill would: what came before is there, nothing after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipelines.stores.store import LocalStore

WRITES = ("create", "replace", "move", "delete")


class Killed(BaseException):
    """Nobody handles it."""


def _kill() -> None:
    raise Killed


class Writes:
    """Counts writes, and stops the run at the n-th, before or after it is done; or does something else then."""

    def __init__(self, last: int, *, is_done: bool) -> None:
        self.last = last
        self.is_done = is_done
        self.count = 0
        self.on_last: Callable[[], object] = _kill

    def wrap(self, write: Any) -> Any:
        def counted(store: LocalStore, *arguments: Any) -> Any:
            self.count += 1
            is_last = self.count == self.last
            if is_last and not self.is_done:
                self.on_last()
            result = write(store, *arguments)
            if is_last and self.is_done:
                self.on_last()
            return result

        return counted


@contextmanager
def stopping_at(last: int, *, is_done: bool = False) -> Iterator[Writes]:
    """Stop at a write; 0 for none."""
    writes = Writes(last, is_done=is_done)
    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(LocalStore, name, writes.wrap(getattr(LocalStore, name)))
        yield writes
