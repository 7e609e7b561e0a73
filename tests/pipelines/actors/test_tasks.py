"""Pieces of work: together they are what is left, no more of it in one than was asked for."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.actors.tasks import SpanTask, cut_tasks
from pipelines.plan.plan import Files, Units
from tests.pipelines.small_jobs import plan_file


def make_units(rows: list[int], per_unit: int) -> Units:
    files = [plan_file(f"{place:03d}.parquet", count) for place, count in enumerate(rows)]
    return Units(Files.of(files), rows_per_unit=per_unit, fingerprint="job")


def list_left(units: Units, task: SpanTask) -> list[str]:
    cut = task.span.units(fingerprint="job")
    return [unit.name for unit in cut if unit.first_row not in task.done]


@given(
    rows=st.lists(st.integers(0, 40), max_size=6),
    per_unit=st.integers(1, 9),
    per_span=st.integers(1, 9),
    data=st.data(),
)
def test_pieces_are_what_is_left_in_order(rows: list[int], per_unit: int, per_span: int, data: Any) -> None:
    units = make_units(rows, per_unit)
    is_there = np.array([data.draw(st.booleans()) for _ in range(len(units))], np.bool_)
    pieces = list(cut_tasks(units, is_there, units_per_span=per_span))
    names = [name for tasks in pieces for task in tasks for name in list_left(units, task)]
    assert names == [unit.name for unit in units.select(np.flatnonzero(~is_there))]
    assert all(list_left(units, task) for tasks in pieces for task in tasks)
    for tasks in pieces:
        assert len(tasks) == 1 or sum(len(list_left(units, task)) for task in tasks) <= per_span


def test_files_of_one_unit_are_sent_together() -> None:
    units = make_units([3] * 10, 3)
    pieces = list(cut_tasks(units, np.zeros(10, np.bool_), units_per_span=4))
    assert [len(tasks) for tasks in pieces] == [4, 4, 2]


def test_nothing_is_cut_before_it_is_asked_for() -> None:
    units = make_units([3] * 50, 3)
    read = units.stretch
    places: list[int] = []

    def watch(place: int) -> Any:
        places.append(place)
        return read(place)

    units.stretch = watch  # type: ignore[method-assign]
    assert len(list(islice(cut_tasks(units, np.zeros(50, np.bool_), units_per_span=2), 3))) == 3
    assert places == list(range(7))
