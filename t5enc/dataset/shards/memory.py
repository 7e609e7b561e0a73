"""Memory of batches, used again when nobody holds a batch any more.

A system gives fresh memory zeroed, a page at the first touch: for a batch of 48 MB that takes several times as long as
to read its rows from the page cache. Allocators give blocks of that size back at once.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

# Smaller blocks an allocator keeps for the next time by itself.
SMALLEST = 1 << 20
# Free blocks together, unless one alone has more.
KEPT_BYTES = 512 << 20
# A block is larger than asked for by this share, so that the next batch, which may be longer, has room in it.
SPARE = 0.25
# A free block serves what takes at least this share of it.
LEAST_USE = 0.25


class BatchMemory:
    """Blocks of bytes for any thread; each comes back when the last array or tensor over it is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[bytearray] = []
        # A block may come back in the middle of anything, this class's own code too: that takes no lock.
        self._returned: deque[bytearray] = deque()

    def take(self, size: int) -> NDArray[np.uint8]:
        """So many bytes, whatever they hold."""
        if size < SMALLEST:
            return np.empty(size, np.uint8)
        block = self._find(size) or bytearray(int(size * (1 + SPARE)))
        # Over a bytearray every view of the array holds the array itself, not just what is below it.
        array = np.frombuffer(block, np.uint8)
        weakref.finalize(array, self._returned.append, block).atexit = False
        return array[:size]

    def _find(self, size: int) -> bytearray | None:
        """The smallest free block that serves."""
        with self._lock:
            self._collect()
            for place, block in enumerate(self._free):
                if size <= len(block) <= size / LEAST_USE:
                    return self._free.pop(place)
        return None

    def _collect(self) -> None:
        """Sort in what came back; the largest blocks stay, the others leave where they are too many."""
        while self._returned:
            self._free.append(self._returned.popleft())
        self._free.sort(key=len)
        total = sum(map(len, self._free))
        while len(self._free) > 1 and total > KEPT_BYTES:
            total -= len(self._free.pop(0))
