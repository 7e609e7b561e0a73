"""Who is working on what: attempts at units, to find the one that kills its process, and progress so far.

Runs as a small Ray actor beside the driver. It forgets everything with the run; a caption that kills is found
again.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

# A unit that was in hand at this many deaths of its process is a suspect, and is encoded alone later.
ATTEMPTS = 2


@dataclass(slots=True)
class Progress:
    """Sums over the units that this run has committed, and the state of its actors."""

    input_rows: int = 0
    captions: int = 0
    tokens: int = 0
    errors: int = 0
    truncated: int = 0
    size: int = 0
    units: int = 0
    useful_tokens: int = 0
    stream_tokens: int = 0
    busy_seconds: float = 0.0
    busy_cpu_seconds: float = 0.0
    actors_started: int = 0
    actors_ready: int = 0
    compiled_graphs: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    ready_at: float = 0.0
    ended_at: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first actor that was ready to the last unit that was committed."""
        return max(0.0, self.ended_at - self.ready_at)

    @property
    def fill(self) -> float:
        """Share of computed tokens that belong to a caption."""
        return self.useful_tokens / self.stream_tokens if self.stream_tokens else 1.0


class Ledger:
    """Attempts and progress of one run."""

    def __init__(self) -> None:
        self.attempts: Counter[str] = Counter()
        self.in_hand: dict[str, list[int]] = {}
        self.progress = Progress()

    def starting(self) -> None:
        """An actor's process is about to load the model."""
        self.progress.actors_started += 1

    def started(self, settings: dict[str, str]) -> None:
        """An actor is ready, with these resolved settings."""
        self.progress.actors_ready += 1
        self.progress.settings = settings
        self.progress.ready_at = self.progress.ready_at or time.monotonic()

    def find_suspects(self, unit_ids: list[str]) -> list[str]:
        """Those of these units that were in hand at too many deaths to be begun once more."""
        return [unit_id for unit_id in unit_ids if self.attempts[unit_id] >= ATTEMPTS]

    def begin(self, unit_id: str) -> None:
        """A unit is about to be read, tokenized and encoded."""
        self.attempts[unit_id] += 1

    def note(self, unit_id: str, captions: list[int]) -> None:
        """These captions of the unit are about to be computed."""
        self.in_hand[unit_id] = captions

    def take_note(self, unit_id: str) -> list[int]:
        """The captions last noted, and forget them."""
        return self.in_hand.pop(unit_id, [])

    def end(self, unit_id: str, gains: dict[str, float]) -> None:
        """A unit is committed; `gains` is added to the progress."""
        self.attempts.pop(unit_id, None)
        self.progress.units += 1
        self.progress.ended_at = time.monotonic()
        for name, value in gains.items():
            setattr(self.progress, name, getattr(self.progress, name) + value)

    def read(self) -> Progress:
        """Progress so far."""
        return self.progress
