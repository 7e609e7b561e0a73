"""How far stored tokens are from what the model gave, of a sample: few numbers for however many tokens, that add up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Bars between an error and twice as much: what is told of a median is right within 2 %.
BARS = 32
# That of errors of nothing at all, below every other.
EXACT = -(1 << 15)
# That of numbers which are none when they are read: infinite, above every other.
LOST = 1 << 15


@dataclass(slots=True)
class StorageError:
    """Sampled tokens by their relative error, in bars (number -> tokens), and the largest of these errors."""

    worst: float = 0.0
    bars: dict[int, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens of the sample."""
        return sum(self.bars.values())

    def count(self, errors: Iterable[float]) -> None:
        """Sort the errors of some tokens into bars."""
        for error in errors:
            bar = _find_bar(error)
            self.bars[bar] = self.bars.get(bar, 0) + 1
            self.worst = max(self.worst, math.inf if bar == LOST else error)

    def add(self, other: StorageError) -> None:
        """Add what was sampled elsewhere."""
        for bar, count in other.bars.items():
            self.bars[bar] = self.bars.get(bar, 0) + count
        self.worst = max(self.worst, other.worst)

    def quantile(self, share: float) -> float:
        """The error that this share of the tokens has at most; 0 of no tokens."""
        left = math.ceil(share * self.tokens)
        for bar in sorted(self.bars):
            left -= self.bars[bar]
            if left <= 0:
                return _LIMITS[bar] if bar in _LIMITS else min(self.worst, 2.0 ** (bar / BARS))
        return self.worst

    def summarize(self) -> dict[str, float]:
        """The errors that are told, by name."""
        return {"median": self.quantile(0.5), "p99": self.quantile(0.99), "worst": self.worst}

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json, which the next run of the job reads."""
        return {"tokens": self.tokens, **self.summarize(), "bars": self.bars}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> StorageError:
        """What `to_json` gave, through JSON; KeyError, TypeError or ValueError for anything else."""
        bars = {int(bar): int(count) for bar, count in content["bars"].items()}
        return cls(worst=float(content["worst"]), bars=bars)

    def __str__(self) -> str:
        if not self.worst:
            return f"nothing lost, of {self.tokens:,} tokens sampled"
        shown = ", ".join(f"{show_error(error)} ({name})" for name, error in self.summarize().items())
        return f"off by {shown} of {self.tokens:,} tokens sampled"


_LIMITS = {EXACT: 0.0, LOST: math.inf}


def _find_bar(error: float) -> int:
    if not math.isfinite(error):
        return LOST
    return math.ceil(BARS * math.log2(error)) if error > 0 else EXACT


def add_errors(*parts: StorageError) -> StorageError:
    """All of them together."""
    total = StorageError()
    for part in parts:
        total.add(part)
    return total


def show_error(error: float) -> str:
    """An error for people, in hundredths."""
    return f"{100 * error:.3g} %"
