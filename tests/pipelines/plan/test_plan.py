"""The plan as columns: files as they were told, units by number and by name, rows counted without making units."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.plan.density import ROWS, Density
from pipelines.plan.plan import Files, Units
from pipelines.plan.units import PlannedFile
from tests.pipelines.small_jobs import plan_file

NAMES = ("a.parquet", "a/split=train/c.parquet", "a", "a.pq", "z.parquet")
SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=len(NAMES))


def make_files(rows: list[int]) -> list[PlannedFile]:
    return [plan_file(name, count) for name, count in zip(NAMES, rows, strict=False)]


DENSITIES = st.lists(
    st.builds(
        lambda rows, captions, size: Density(rows=rows, captions=captions * ROWS // 4, bytes=size),
        rows=st.integers(1, 40),
        captions=st.integers(4, 100),
        size=st.integers(1, 2000),
    ),
    max_size=5,
).map(tuple)
LIMITS = {
    "rows_per_unit": st.integers(1, 20),
    "captions_per_unit": st.none() | st.integers(1, 40),
    "bytes_per_unit": st.none() | st.integers(1, 4000),
}


def make_dense(densities: list[tuple[Density, ...]]) -> list[PlannedFile]:
    """Files of these densities, which may be of no rows."""
    return [
        plan_file(name, sum(density.rows for density in found), densities=found)
        for name, found in zip(NAMES, densities, strict=False)
    ]


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


@given(rows=SIZES, per_unit=st.integers(1, 9))
def test_a_unit_is_the_same_by_number_and_by_name(rows: list[int], per_unit: int) -> None:
    units = make_units(rows, per_unit)
    expected = [
        unit
        for planned in make_files(rows)
        for unit in planned.span(0, planned.num_rows, per_unit).units(fingerprint="job")
    ]
    assert list(units.values()) == [units.at(number) for number in range(len(units))] == expected
    assert [units.find(name) for name in units] == list(range(len(units)))


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("/a_/", "/b_/"),
        lambda name: name.replace("/00000000000", "/00000000009"),
        lambda name: name.replace("/00000000000", "/0000000000x"),
        lambda name: name[:-9] + "x" + name[-8:],
        lambda name: name.rpartition("/")[2],
        lambda name: "",
        lambda name: "_t5enc/job.json",
    ],
)
def test_a_name_that_is_no_units_is_not_found(change: object) -> None:
    units = make_units([10], 3)
    for name in units:
        assert units.find(change(name)) is None  # type: ignore[operator]
    with pytest.raises(KeyError):
        units[change(name)]  # type: ignore[operator]


@given(rows=SIZES, per_unit=st.integers(1, 9), data=st.data())
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
    assert (len(units), list(units), units.find("data/a_/000000000000-0.parquet")) == (0, [], None)
    assert units.count_rows(np.zeros(0, np.bool_)) == 0


@given(densities=st.lists(DENSITIES, min_size=1, max_size=3), limits=st.fixed_dictionaries(LIMITS))
def test_units_cover_each_row_once_and_hold_no_more_than_they_may(
    densities: list[tuple[Density, ...]], limits: dict[str, int | None]
) -> None:
    files = make_dense(densities)
    units = Units(Files.of(files), fingerprint="job", **limits)  # type: ignore[arg-type]
    assert [unit.num_rows for unit in units.values()] == [unit.num_rows for unit in units.select(np.arange(len(units)))]
    for planned in files:
        mine = [unit for unit in units.values() if unit.source == planned.file.source]
        assert [row for unit in mine for row in range(unit.first_row, unit.first_row + unit.num_rows)] == list(
            range(planned.num_rows)
        )
        by_row = [density for density in planned.densities for _ in range(density.rows)]
        for unit in mine:
            rows = by_row[unit.first_row : unit.first_row + unit.num_rows]
            assert unit.num_rows <= limits["rows_per_unit"]
            if unit.num_rows > 1:
                assert sum(density.captions for density in rows) <= ROWS * (limits["captions_per_unit"] or 10**9)
                assert sum(density.bytes for density in rows) <= (limits["bytes_per_unit"] or 10**9)


@given(densities=st.lists(DENSITIES, min_size=1, max_size=3), limits=st.fixed_dictionaries(LIMITS), data=st.data())
def test_units_of_files_that_differ_are_found_counted_and_sent(
    densities: list[tuple[Density, ...]], limits: dict[str, int | None], data: st.DataObject
) -> None:
    units = Units(Files.of(make_dense(densities)), fingerprint="job", **limits)  # type: ignore[arg-type]
    assert [units.find(name) for name in units] == list(range(len(units)))
    chosen = np.array([data.draw(st.booleans()) for _ in range(len(units))], np.bool_)
    assert units.count_rows(chosen) == sum(unit.num_rows for unit in units.select(np.flatnonzero(chosen)))
    assert list(pickle.loads(pickle.dumps(units)).items()) == list(units.items())
    assert [*units.files] == make_dense(densities)


def test_one_dense_row_makes_no_small_units_of_its_neighbours() -> None:
    densities = (Density(rows=1000), Density(rows=1, captions=10**6 * ROWS), Density(rows=1000))
    units = Units(
        Files.of([plan_file(rows=2001, densities=densities)]),
        rows_per_unit=100,
        captions_per_unit=100,
        fingerprint="job",
    )
    assert [unit.num_rows for unit in units.values()] == [100] * 10 + [1] + [100] * 10


def test_row_groups_that_alternate_are_cut_together() -> None:
    densities = tuple(Density(rows=10, captions=count * ROWS) for count in (1, 2) * 50)
    units = Units(
        Files.of([plan_file(rows=1000, densities=densities)]),
        rows_per_unit=200,
        captions_per_unit=200,
        fingerprint="job",
    )
    assert [unit.num_rows for unit in units.values()] == [100] * 10


def test_without_limits_units_are_of_rows_however_dense() -> None:
    densities = (Density(rows=3, captions=10**6 * ROWS), Density(rows=7))
    dense = Units(Files.of([plan_file(rows=10, densities=densities)]), rows_per_unit=4, fingerprint="job")
    assert list(dense) == list(make_units([10], 4))


def test_a_file_of_billions_of_rows_is_a_line_of_the_plan() -> None:
    densities = (Density(rows=2**31, captions=5 * ROWS), Density(rows=2**31))
    units = Units(
        Files.of([plan_file(rows=2**32, densities=densities)]),
        rows_per_unit=8192,
        captions_per_unit=8192,
        fingerprint="job",
    )
    assert len(units.stretches) == 2
    last = units.at(len(units) - 1)
    assert last.first_row + last.num_rows == 2**32
    assert units.find(last.name) == len(units) - 1
