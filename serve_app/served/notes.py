"""Notes of one request (how it came, why it failed, its timings), written where they are known, read by the metrics."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

Method = Literal["single", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """What was computed: the tokens of each text, and the seconds that each step took."""

    lengths: list[int]
    seconds_tokenizing: float
    seconds_queued: float
    seconds_computing: float


@dataclass(slots=True)
class Notes:
    """How a request gave its input ("none": it was refused before anyone looked), why it failed, what it took.

    `reason` is TEI's word.
    """

    method: Method | Literal["none"] = "none"
    reason: str | None = None
    timings: list[Timings] = field(default_factory=list)

    def note_method(self, method: Method) -> None:
        """The first to note it knows the request as a whole."""
        if self.method == "none":
            self.method = method


# Set by the metering; the handlers of a request run in its context.
CURRENT: ContextVar[Notes] = ContextVar("notes")


def find_notes() -> Notes:
    """That of the request that is being answered, or one that nobody reads."""
    return CURRENT.get(None) or Notes()
