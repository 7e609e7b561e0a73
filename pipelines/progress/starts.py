"""Actors of one kind on their way to work: how often one of them has died on it, and how many there are."""

from __future__ import annotations


class Starts:
    """Starts of those that load, in a row since something was committed, and when those that are ready were heard."""

    def __init__(self) -> None:
        self.loading: dict[str, int] = {}
        self.ready: dict[str, float] = {}
        self.has_failed = False

    def begin(self, actor: str) -> None:
        """Its process is about to load; for the second time in a row, where the first one died."""
        self.ready.pop(actor, None)
        self.loading[actor] = self.loading.get(actor, 0) + 1

    def end(self, actor: str, now: float) -> None:
        """It is ready."""
        self.loading.pop(actor, None)
        self.ready[actor] = now

    def fail(self, actor: str) -> None:
        """It could not be made ready, and may never start again."""
        self.has_failed = True
        self.loading.pop(actor, None)
        self.ready.pop(actor, None)

    def forgive(self) -> None:
        """Something was committed: what died until now does not keep the run from getting on."""
        self.loading = dict.fromkeys(self.loading, 1)

    @property
    def failures(self) -> int:
        """The most starts in a row that one actor's process did not live through."""
        return max(self.loading.values(), default=1) - 1

    @property
    def left(self) -> int:
        """Actors that load or are ready."""
        return len(self.loading) + len(self.ready)
