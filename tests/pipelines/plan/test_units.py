"""Units: what their ids depend on, and that spans and units cover a file exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.plan.plan import Files, Units
from pipelines.plan.units import MOST_READS_OF_A_GROUP, PlannedFile, Span, Unit, cut_spans
from tests.pipelines.small_jobs import plan_file

SIZES = st.integers(1, 50)


def cut(*files: PlannedFile, rows: int = 3, fingerprint: str = "job") -> list[Unit]:
    return list(Units(Files.of(files), rows_per_unit=rows, fingerprint=fingerprint).values())


def spans(planned: PlannedFile, per_unit: int, per_span: int) -> list[Span]:
    whole = planned.span(0, planned.num_rows, per_unit)
    return list(cut_spans(whole, planned.largest_group, units_per_span=per_span))


def change_file(planned: PlannedFile, **changes: Any) -> PlannedFile:
    return replace(planned, file=replace(planned.file, **changes))


@given(rows=st.integers(0, 200), per_unit=SIZES)
def test_units_cover_every_row_once_in_order(rows: int, per_unit: int) -> None:
    units = cut(plan_file(rows=rows), rows=per_unit)
    covered = [row for unit in units for row in range(unit.first_row, unit.first_row + unit.num_rows)]
    assert covered == list(range(rows))
    assert all(unit.num_rows == per_unit for unit in units[:-1])


@given(groups=st.lists(st.integers(1, 60), max_size=6), per_unit=SIZES, per_span=st.integers(1, 9))
def test_units_are_the_same_wherever_spans_end(groups: list[int], per_unit: int, per_span: int) -> None:
    planned = plan_file(rows=sum(groups), groups=tuple(groups))
    units = [unit for span in spans(planned, per_unit, per_span) for unit in span.units(fingerprint="job")]
    assert units == cut(planned, rows=per_unit)


@given(groups=st.lists(st.integers(1, 500), min_size=1, max_size=4), per_unit=SIZES, per_span=st.integers(1, 9))
def test_no_row_group_is_read_over_and_over(groups: list[int], per_unit: int, per_span: int) -> None:
    planned = plan_file(rows=sum(groups), groups=tuple(groups))
    stop = 0
    for rows in groups:
        start, stop = stop, stop + rows
        inside = [span for span in spans(planned, per_unit, per_span) if start < span.first_row < stop]
        assert len(inside) <= MOST_READS_OF_A_GROUP


def test_a_span_has_as_many_units_as_asked_for() -> None:
    found = spans(plan_file(rows=20, groups=(5,) * 4), 3, 2)
    assert [(span.first_row, span.num_rows) for span in found] == [(0, 6), (6, 6), (12, 6), (18, 2)]


def test_an_id_does_not_depend_on_where_the_file_lies() -> None:
    assert cut(change_file(plan_file(), path="/elsewhere/a.parquet")) == cut(plan_file())


def test_an_id_does_not_depend_on_how_the_file_is_laid_out_or_cut() -> None:
    assert cut(plan_file(groups=(1, 3))) == cut(plan_file())


@pytest.mark.parametrize(
    "other",
    [
        change_file(plan_file(), source="b.parquet"),
        change_file(plan_file(), size=1001),
        replace(plan_file(), digest="2"),
    ],
)
def test_an_id_depends_on_name_size_and_content(other: PlannedFile) -> None:
    assert not {unit.id for unit in cut(other)} & {unit.id for unit in cut(plan_file())}


def test_an_id_depends_on_the_job_and_the_rows() -> None:
    units = cut(plan_file(rows=6)) + cut(plan_file(rows=6), rows=2) + cut(plan_file(rows=6), fingerprint="other")
    assert len({unit.id for unit in units}) == len(units)


def test_an_id_is_the_same_in_every_version() -> None:
    """Or a job that was begun with an older version would begin anew."""
    assert [unit.name for unit in cut(plan_file("année/a.parquet", rows=4))] == [
        "data/ann%C3%A9e__/a_/000000000000-69bc9638e31d582a.parquet",
        "data/ann%C3%A9e__/a_/000000000003-a9c064a2e6ca5e05.parquet",
    ]


@given(rows=st.integers(1, 300), per_unit=SIZES)
def test_names_sort_as_rows_do(rows: int, per_unit: int) -> None:
    names = [unit.name for unit in cut(plan_file(rows=rows), rows=per_unit)]
    assert names == sorted(names)
