"""The plan as columns: files as they were told, units by number and by name, rows counted without making units."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.plan.plan import Files, Units
from pipelines.plan.units import PlannedFile
from tests.pipelines.small_jobs import plan_file

NAMES = ("a.parquet", "b/split=train/c.parquet", "manifest.parquet", "source_manifest.parquet", "z.parquet")
ROWS = st.lists(st.integers(0, 30), min_size=1, max_size=len(NAMES))


def make_files(rows: list[int]) -> list[PlannedFile]:
    return [plan_file(name, count) for name, count in zip(NAMES, rows, strict=False)]


def make_units(rows: list[int], per_unit: int) -> Units:
    return Units(Files.of(make_files(rows)), rows_per_unit=per_unit, fingerprint="job")


def test_files_come_back_as_they_were_told() -> None:
    planned = make_files([4, 0, 7, 1, 3])
    files = Files.of(planned)
    assert [*files] == [files[place] for place in range(5)] == planned
    assert files[-1] == planned[-1]
    assert [*files[1:4:2]] == planned[1:4:2]
    assert files.total_rows == 15
    with pytest.raises(IndexError):
        files[5]


def test_partitions_are_read_from_the_source_again() -> None:
    (planned,) = Files.of([plan_file(NAMES[1])])
    assert planned.file.partitions == (("split", "train"),)


@given(rows=ROWS, per_unit=st.integers(1, 9))
def test_a_unit_is_the_same_by_number_and_by_name(rows: list[int], per_unit: int) -> None:
    units = make_units(rows, per_unit)
    expected = [
        unit
        for planned in make_files(rows)
        for unit in planned.span(0, planned.num_rows).units(rows_per_unit=per_unit, fingerprint="job")
    ]
    assert list(units.values()) == [units.at(number) for number in range(len(units))] == expected
    assert [units.find(name) for name in units] == list(range(len(units)))


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("a.parquet/", "b.parquet/"),
        lambda name: name.replace("/00000000000", "/00000000009"),
        lambda name: name.replace("/00000000000", "/0000000000x"),
        lambda name: name[:-9] + "x" + name[-8:],
        lambda name: name.rpartition("/")[2],
        lambda name: "",
        lambda name: "_job.json",
    ],
)
def test_a_name_that_is_no_units_is_not_found(change: object) -> None:
    units = make_units([10], 3)
    for name in units:
        assert units.find(change(name)) is None  # type: ignore[operator]
    with pytest.raises(KeyError):
        units[change(name)]  # type: ignore[operator]


@given(rows=ROWS, per_unit=st.integers(1, 9), data=st.data())
def test_rows_are_counted_as_if_units_were_made(rows: list[int], per_unit: int, data: st.DataObject) -> None:
    units = make_units(rows, per_unit)
    chosen = np.array([data.draw(st.booleans()) for _ in range(len(units))], np.bool_)
    assert units.count_rows(chosen) == sum(unit.num_rows for unit in units.select(np.flatnonzero(chosen)))


def test_a_selection_is_a_sequence_of_units() -> None:
    units = make_units([10, 4], 3)
    chosen = units.select(np.array([5, 0]))
    assert [*chosen] == [units.at(5), units.at(0)]
    assert (len(chosen), chosen[-1], [*chosen[:1]]) == (2, units.at(0), [units.at(5)])
    assert not units.select(np.array([], np.int64))


def test_a_plan_travels_as_a_pickle() -> None:
    units = make_units([10, 0, 4], 3)
    assert list(pickle.loads(pickle.dumps(units)).items()) == list(units.items())


def test_an_empty_plan_has_no_units() -> None:
    units = Units(Files.of([]), rows_per_unit=2, fingerprint="job")
    assert (len(units), list(units), units.find("a.parquet/000000000000-0.parquet")) == (0, [], None)
    assert units.count_rows(np.zeros(0, np.bool_)) == 0
