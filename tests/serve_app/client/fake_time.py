"""Time that passes only when somebody sleeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.client.retries import Timing


@dataclass
class FakeTime:
    """A clock that only sleeping moves, and dice that always show the same."""

    now: float = 1000.0
    dice: float = 0.5
    waits: list[float] = field(default_factory=list)

    @property
    def timing(self) -> Timing:
        return Timing(clock=lambda: self.now, sleep=self.sleep, random=lambda: self.dice)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
