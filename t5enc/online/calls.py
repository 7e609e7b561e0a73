"""A text that is on its way through a model, and the calls that wait for it: several may want the same one.

M model dim.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from dataclasses import dataclass, field

from torch import Tensor

from t5enc.errors import PrecisionError
from t5enc.online.fault_isolation import TextResult
from t5enc.text.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Served:
    """One (rows, M) CPU tensor a text of a call, in order, and how long the call waited for them.

    It is queued until the model takes the first of its texts, and computed from then until the last is through: the
    two add up to the time between question and answer. Texts out of the cache take none.
    """

    hidden: list[Tensor]
    seconds_queued: float
    seconds_computing: float


@dataclass(slots=True, eq=False)
class Call:
    """One caller's texts: what there is of them so far, and the future that wakes the caller.

    Times are monotonic seconds: `since` it was asked, `begun` when the first of its texts was taken by the model,
    `ended` when the last was through.
    """

    done: asyncio.Future[None]
    hidden: list[Tensor | None]
    since: float = 0.0
    begun: float | None = None
    ended: float = 0.0
    failed: dict[int, str] = field(default_factory=dict)
    error: Exception | None = None
    awaited: set[WaitingText] = field(default_factory=set)

    def result(self) -> Served:
        """What the caller gets when all is settled; raises what the model raised, or PrecisionError for some texts."""
        if self.error is not None:
            raise copy_error(self.error) from self.error
        if self.failed:
            raise PrecisionError(dict(sorted(self.failed.items())))
        hidden = [text for text in self.hidden if text is not None]
        if self.begun is None:
            return Served(hidden, 0.0, 0.0)
        return Served(hidden, self.begun - self.since, self.ended - self.begun)

    def begin(self, now: float) -> None:
        """One of its texts is in the model."""
        if self.begun is None:
            self.begun = now

    def settle(self, text: WaitingText, result: TextResult, now: float) -> None:
        """One of its texts is through; the caller wakes after the last, or when the model failed."""
        self.ended = now
        self.awaited.discard(text)
        for place in text.callers[self]:
            if isinstance(result, Tensor):
                self.hidden[place] = result
            elif isinstance(result, str):
                self.failed[place] = result
            else:
                self.error = result
        if not self.awaited or self.error is not None:
            with contextlib.suppress(RuntimeError):  # in an event loop that was closed nobody waits
                self.done.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


@dataclass(slots=True, eq=False)
class WaitingText:
    """A prompt in flight, since when, whether it is in the model, and the places at which each call wants it."""

    key: bytes
    prompt: Prompt
    since: float
    is_running: bool = False
    callers: dict[Call, list[int]] = field(default_factory=dict)

    def join(self, call: Call, place: int) -> None:
        """A call waits for this text, too."""
        self.callers.setdefault(call, []).append(place)
        call.awaited.add(self)
        if self.is_running:
            call.begin(call.since)

    def begin(self, now: float) -> None:
        """The model takes it."""
        self.is_running = True
        for call in self.callers:
            call.begin(now)

    def deliver(self, result: TextResult, now: float) -> None:
        """Tell all calls."""
        for call in self.callers:
            call.settle(self, result, now)


def copy_error(error: Exception) -> Exception:
    """One caller's own: raised in several, an exception would gather the tracebacks of all.

    Of one that cannot be made again from its arguments, a RuntimeError with its words.
    """
    try:
        own = copy.copy(error)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return own.with_traceback(None)
