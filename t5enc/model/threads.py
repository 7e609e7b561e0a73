"""How many threads a process computes with.

PyTorch keeps two numbers: each thread's own, and the one that was set last by any thread. Inductor lays out the buffers
of a Flex kernel for CPUs for the first, and at its first call in a thread that kernel takes over the second: where that
is larger, it writes beyond them. So both are made equal before a kernel may be called for the first time, and stay so.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_LOCK = threading.RLock()


def set_num_threads(count: int) -> None:
    """Compute with so many threads, in this thread and in those that begin later."""
    with _LOCK:
        torch.set_num_threads(count)


@contextlib.contextmanager
def holding_num_threads() -> Iterator[None]:
    """Make this thread's number that of the process meanwhile; others who hold or set one wait."""
    with _LOCK:
        torch.set_num_threads(torch.get_num_threads())
        yield
