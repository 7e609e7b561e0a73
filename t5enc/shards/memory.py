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
# A block is larger than asked for by this share, so that the next batches, which may be longer, have room in it; what
# none of them touches is not there yet.
SPARE = 1.0
# A free block serves what takes at least this share of it.
LEAST_USE = 0.125


class BatchMemory:
    """Blocks of bytes for any thread; each comes back when the last array or tensor over it is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[NDArray[np.uint8]] = []
        # A block may come back in the middle of anything, this class's own code too: that takes no lock.
        self._returned: deque[NDArray[np.uint8]] = deque()

    def take(self, size: int) -> NDArray[np.uint8]:
        """So many bytes, whatever they hold."""
        if size < SMALLEST:
            return np.empty(size, np.uint8)
        block = self._find(size)
        if block is None:
            block = np.empty(int(size * (1 + SPARE)), np.uint8)
        # Over another object than an array, every view of this array holds the array itself, not what is below it.
        array = np.frombuffer(block.data, np.uint8)
        weakref.finalize(array, self._returned.append, block).atexit = False
        return array[:size]

    def _find(self, size: int) -> NDArray[np.uint8] | None:
        """Of the free blocks that serve the one that came back last: more of it may lie in the processor's cache."""
        with self._lock:
            self._collect()
            for place in reversed(range(len(self._free))):
                if size <= len(self._free[place]) <= size / LEAST_USE:
                    return self._free.pop(place)
        return None

    def _collect(self) -> None:
        """Add what came back; those that lay there longest leave where there are too many."""
        while self._returned:
            self._free.append(self._returned.popleft())
        total = sum(map(len, self._free))
        while len(self._free) > 1 and total > KEPT_BYTES:
            total -= len(self._free.pop(0))
