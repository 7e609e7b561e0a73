"""How long a test waits for other processes before it fails."""

from __future__ import annotations

from collections.abc import Callable

from tests import waiting

# Only for a test that would otherwise never end, in seconds.
PATIENCE = 600.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when it holds: of other processes nothing says when."""
    waiting.wait_until(condition, lambda: what, seconds=PATIENCE)
