"""How long shards that cannot be read are left alone: a store that fails now may not in a minute."""

from __future__ import annotations

import math
import time

# Shards in a row that cannot be read before no other is asked for, and how long that lasts.
MOST_FAILURES = 16
REST_SECONDS = 60.0


class Rests:
    """Of one output in one process; threads may lose a failure among each other, which nothing depends on."""

    def __init__(self) -> None:
        self._shards: dict[int, float] = {}
        self._all = -math.inf
        self._failures = 0

    def is_resting(self, shard: int | None = None) -> bool:
        """Whether a shard is not to be asked now, or none is."""
        now = time.monotonic()
        return now < self._all or (shard is not None and now < self._shards.get(shard, -math.inf))

    def note_failure(self, shard: int, *, is_gone: bool) -> None:
        """Leave a shard alone for a minute, or for good; all of them after too many failures."""
        until = time.monotonic() + REST_SECONDS
        self._shards[shard] = math.inf if is_gone else until
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self._failures, self._all = 0, until

    def note_success(self) -> None:
        """The failures so far were not in a row."""
        self._failures = 0
