"""What a run did when: amounts in slices of time, few enough to keep however long it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MOST_SLICES = 240
COLUMNS = ("captions", "tokens", "waiting_seconds", "computing_seconds", "writing_seconds")


def _empty_columns() -> dict[str, list[float]]:
    return {name: [] for name in COLUMNS}


@dataclass(slots=True)
class History:
    """Columns of amounts, one for each slice of `width` seconds since the run began; `end` is how far they reach."""

    width: float = 1.0
    end: float = 0.0
    columns: dict[str, list[float]] = field(default_factory=_empty_columns)

    def add(self, name: str, amount: float, start: float, end: float) -> None:
        """Spread an amount evenly over the seconds from `start` to `end` of the run."""
        start, end = max(start, 0.0), max(end, 0.0)
        self.end = max(self.end, end)
        self._reach(end)
        column = self.columns[name]
        last = self._count_slices(end) - 1
        first = int(start / self.width)
        if first >= last:
            column[last] += amount
            return
        for place in range(first, last + 1):
            seconds = min(end, (place + 1) * self.width) - max(start, place * self.width)
            column[place] += amount * seconds / (end - start)

    def _reach(self, end: float) -> None:
        """Have slices up to there: of twice the width, as often as there would be too many."""
        while self._count_slices(end) > MOST_SLICES:
            self.width *= 2
            self.columns = {name: _add_pairs(column) for name, column in self.columns.items()}
        for column in self.columns.values():
            column.extend([0.0] * (self._count_slices(end) - len(column)))

    def _count_slices(self, end: float) -> int:
        return max(1, math.ceil(end / self.width))


def _add_pairs(column: list[float]) -> list[float]:
    return [sum(column[place : place + 2]) for place in range(0, len(column), 2)]
