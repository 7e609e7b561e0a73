"""A text that is on its way through a model, and the calls that wait for it: several may want the same one.

M model dim.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from torch import Tensor

from t5enc.text_encoder import TokenIds

# What became of a text: (tokens, M), the reason why it has no embedding, or what the model raised.
Outcome = Tensor | str | Exception


@dataclass(slots=True, eq=False)
class Call:
    """One caller's texts: what there is of them so far, and the future that wakes the caller."""

    done: asyncio.Future[None]
    hidden: list[Tensor | None]
    failed: dict[int, str] = field(default_factory=dict)
    error: Exception | None = None
    awaited: set[WaitingText] = field(default_factory=set)

    def settle(self, text: WaitingText, outcome: Outcome) -> None:
        """One of its texts is through; the caller wakes after the last, or when the model failed."""
        self.awaited.discard(text)
        for place in text.callers[self]:
            if isinstance(outcome, Tensor):
                self.hidden[place] = outcome
            elif isinstance(outcome, str):
                self.failed[place] = outcome
            else:
                self.error = outcome
        if not self.awaited or self.error is not None:
            with contextlib.suppress(RuntimeError):  # in an event loop that was closed nobody waits
                self.done.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


@dataclass(slots=True, eq=False)
class WaitingText:
    """A token list in flight, since when (monotonic seconds), and the places at which each call wants it."""

    key: bytes
    ids: TokenIds
    since: float
    callers: dict[Call, list[int]] = field(default_factory=dict)

    def join(self, call: Call, place: int) -> None:
        """A call waits for this text, too."""
        self.callers.setdefault(call, []).append(place)
        call.awaited.add(self)

    def deliver(self, outcome: Outcome) -> None:
        """Tell all calls."""
        for call in self.callers:
            call.settle(self, outcome)
