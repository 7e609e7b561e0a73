"""What captions were like: how long, and which have no embedding for what reason. Of a unit, or of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.progress.storage_error import StorageError

# Bars of the length histogram up to where captions are cut; longer ones fall into as many again, the last is open.
BARS = 32
MOST_REASONS = 40
MOST_ROWS = 5
OTHERS = "other reasons"


@dataclass(slots=True)
class Reason:
    """How many captions have no embedding for a reason, and the first of them: source, row, place in the row."""

    count: int = 0
    rows: list[tuple[str, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Findings:
    """Captions by length in tokens before they were cut (bar number -> captions), reasons, and the cost of storing.

    `reused` are captions that were copied of each earlier output, `reused_tokens` the tokens of all of them, `troubles`
    what went wrong with one.
    """

    lengths: dict[int, int] = field(default_factory=dict)
    reasons: dict[str, Reason] = field(default_factory=dict)
    storage: StorageError = field(default_factory=StorageError)
    reused: dict[str, int] = field(default_factory=dict)
    reused_tokens: int = 0
    troubles: dict[str, str] = field(default_factory=dict)

    def count_lengths(self, lengths: Iterable[int], max_length: int) -> None:
        """Sort lengths into bars; captions that were not tokenized have none."""
        width = bar_width(max_length)
        for length in lengths:
            if length > 0:
                self._count_bar(min((length - 1) // width, 2 * BARS), 1)

    def _count_bar(self, bar: int, count: int) -> None:
        self.lengths[bar] = self.lengths.get(bar, 0) + count

    def add_reason(self, reason: str, count: int, rows: Sequence[tuple[str, int, int]]) -> None:
        """Count captions without embedding, and keep the first few rows."""
        is_kept = reason in self.reasons or len(self.reasons) < MOST_REASONS
        kept = self.reasons.setdefault(reason if is_kept else OTHERS, Reason())
        kept.count += count
        kept.rows += rows[: MOST_ROWS - len(kept.rows)]

    def add_reused(self, reused: Mapping[str, int], tokens: int, troubles: Mapping[str, str]) -> None:
        """Count captions that were copied of earlier outputs."""
        for output, count in reused.items():
            self.reused[output] = self.reused.get(output, 0) + count
        self.reused_tokens += tokens
        self.troubles = {**troubles, **self.troubles}

    def add(self, other: Findings) -> None:
        """Add what was found elsewhere."""
        self.storage.add(other.storage)
        self.add_reused(other.reused, other.reused_tokens, other.troubles)
        for bar, count in other.lengths.items():
            self._count_bar(bar, count)
        for reason, found in other.reasons.items():
            self.add_reason(reason, found.count, found.rows)


def bar_width(max_length: int) -> int:
    """Tokens that a bar of the length histogram spans."""
    return max(1, -(-max_length // BARS))


def find_reasons(
    findings: Findings, source: str, places: Iterable[tuple[int, int]], errors: Iterable[str | None]
) -> None:
    """Add the captions of a unit that have an error; `places` are their rows and places in the row."""
    for (row, index), error in zip(places, errors, strict=True):
        if error is not None:
            findings.add_reason(error, 1, [(source, row, index)])
