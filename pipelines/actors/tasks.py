"""What is left of a plan, cut into pieces of work, and what became of each.

A piece is some spans that one actor call reads once, small ones together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.commit.records import UnitRecord
from pipelines.plan.plan import Units
from pipelines.plan.units import Span, Unit, cut_spans
from t5enc.errors import ExitCode, OutputError, T5encError


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanTask:
    """A span to encode, and the first rows of those units of it that are committed already."""

    span: Span
    done: frozenset[int] = frozenset()


class FatalError(OutputError):
    """What an actor met that no other unit would survive either."""

    def __init__(self, reason: str, exit_code: ExitCode) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanResult:
    """What became of a unit, or of a span that could not be read, or whose rest is returned: its node is leaving."""

    kind: Literal["unit", "suspect", "unreadable", "returned", "fatal"]
    record: UnitRecord | None = None
    span: Span | None = None
    unit: Unit | None = None
    reason: str = ""
    exit_code: ExitCode = ExitCode.FAILED

    @classmethod
    def fatal(cls, error: T5encError) -> SpanResult:
        """An error that no other unit would survive either."""
        return cls(kind="fatal", reason=str(error), exit_code=error.exit_code)


def cut_tasks(units: Units, is_there: NDArray[np.bool_], *, units_per_span: int) -> Iterator[list[SpanTask]]:
    """Spans with a unit that is not there, in input order, some small ones together: lazily, one list a dispatch."""
    together: list[SpanTask] = []
    count = 0
    for task, left in _cut_spans(units, is_there, units_per_span):
        if together and count + left > units_per_span:
            yield together
            together, count = [], 0
        together.append(task)
        count += left
    if together:
        yield together


def _cut_spans(units: Units, is_there: NDArray[np.bool_], units_per_span: int) -> Iterator[tuple[SpanTask, int]]:
    """Each span with a unit that is not there, and how many such units it has."""
    for index in _find_unfinished(units, is_there):
        start, stop = units.first_units[index : index + 2]
        is_done = iter(is_there[start:stop].tolist())
        stretch = units.stretch(index)
        for span in cut_spans(stretch, units.largest_group(index), units_per_span=units_per_span):
            rows = list(span.cut())
            done = frozenset(unit.start for unit in rows if next(is_done))
            if len(rows) > len(done):
                yield SpanTask(span=span, done=done), len(rows) - len(done)


def _find_unfinished(units: Units, is_there: NDArray[np.bool_]) -> list[int]:
    """Stretches with a unit that is not there, by number."""
    left = np.concatenate([np.zeros(1, np.int64), np.cumsum(~is_there)])
    return np.flatnonzero(np.diff(left[units.first_units])).tolist()
