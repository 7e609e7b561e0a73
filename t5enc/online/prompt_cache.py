"""Finished prompts, the least recently asked for dropped first. Not for several threads at once.

M model dim.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor


class PromptCache:
    """Embeddings (tokens, M) by key, of at most `max_bytes` together; keys count, too."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._hidden: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hidden)

    def get(self, key: bytes) -> Tensor | None:
        """The embedding kept under `key`, which is now the last to be dropped."""
        hidden = self._hidden.get(key)
        if hidden is not None:
            self._hidden.move_to_end(key)
        return hidden

    def put(self, key: bytes, hidden: Tensor) -> None:
        """Keep an embedding that owns its memory, if it fits at all, in the place of what was used longest ago."""
        self._drop(key)
        if count_bytes(key, hidden) > self.max_bytes:
            return
        self._hidden[key] = hidden
        self.used_bytes += count_bytes(key, hidden)
        while self.used_bytes > self.max_bytes:
            self._drop(next(iter(self._hidden)))

    def choose(self, entries: Mapping[bytes, Tensor]) -> list[bytes]:
        """Keys of the entries that would be kept if all were put, one after the other; any thread may ask."""
        kept: list[bytes] = []
        left = self.max_bytes
        for key, hidden in reversed(list(entries.items())):
            size = count_bytes(key, hidden)
            if left < size <= self.max_bytes:
                break
            if size <= left:
                kept.append(key)
                left -= size
        return kept[::-1]

    def _drop(self, key: bytes) -> None:
        if key in self._hidden:
            self.used_bytes -= count_bytes(key, self._hidden.pop(key))


def count_bytes(key: bytes, hidden: Tensor) -> int:
    """Memory that one entry takes."""
    return len(key) + hidden.nbytes
