"""What was read lately, up to a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Bounded(Generic[Value]):
    """Values by key, of which those that were not asked for longest leave where they weigh more than `most` together.

    For many threads; two that miss the same key at once both load it. The last one that was loaded always stays.
    """

    def __init__(self, most: int, weigh: Callable[[Value], int] = lambda _: 1) -> None:
        self.most = most
        self.weigh = weigh
        self.weight = 0
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def find(self, key: Hashable) -> Value | None:
        """The value that is kept under a key, if any."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def get(self, key: Hashable, load: Callable[[], Value]) -> Value:
        """The value of a key, loaded where it is not kept."""
        found = self.find(key)
        return found if found is not None else self._keep(key, load())

    def _keep(self, key: Hashable, value: Value) -> Value:
        with self._lock:
            if key in self._values:
                return self._values[key]
            self._values[key] = value
            self.weight += self.weigh(value)
            while self.weight > self.most and len(self._values) > 1:
                _, oldest = self._values.popitem(last=False)
                self.weight -= self.weigh(oldest)
            return value
