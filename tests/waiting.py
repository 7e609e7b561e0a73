"""Waiting for what other processes do, of which nothing says when."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool], explain: Callable[[], str], *, seconds: float, every: float = 0.05
) -> None:
    """Return when it holds; asked again and again, and a failure with the explanation after so many seconds."""
    late = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < late, explain()
        time.sleep(every)
