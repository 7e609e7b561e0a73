"""Types of a column that differ between two files, all pairs of them: whole, or refused before work, never changed."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.inputs.columns.type_union import unite_all
from t5enc.errors import SourceError
from tests.pipelines.inputs.columns.kept_rows import Found, write_files
from tests.pipelines.inputs.columns.same_values import is_same
from tests.profiles import PROFILE

# Each example is a row of the matrix: one type in the first file beside every type in the second.
EXAMPLES = {"quick": 3, "all": 100}
DAYS = st.dates(datetime.date(1, 1, 2), datetime.date(9999, 12, 30))
MOMENTS = st.one_of(
    st.datetimes(datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30)),
    st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2040, 1, 1)),
)
# Those that nanoseconds hold.
NEAR = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
TEXTS = st.one_of(st.text(st.characters(codec="utf-8"), max_size=9), st.sampled_from(["0012", "7", "true", "1.50"]))
WIDTHS = (8, 16, 32, 64)


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.one_of(st.integers(low, high), st.sampled_from([low, high, 0, 1, 7]))


def floats(bits: int) -> st.SearchStrategy[float]:
    return st.one_of(st.floats(width=bits), st.sampled_from([0.0, -0.0, 7.0, float("inf")]))  # type: ignore[arg-type]


def decimals(digits: int, places: int) -> st.SearchStrategy[Decimal]:
    most = 10 ** (digits - places) - 1
    return st.decimals(-most, most, allow_nan=False, allow_infinity=False, places=places)


def zoned(moments: st.SearchStrategy[datetime.datetime]) -> st.SearchStrategy[datetime.datetime]:
    return moments.map(lambda moment: moment.replace(tzinfo=datetime.UTC))


TYPES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.null(): st.none(),
    pa.bool_(): st.booleans(),
    **{pa.type_for_alias(f"int{bits}"): integers(bits, signed=True) for bits in WIDTHS},
    **{pa.type_for_alias(f"uint{bits}"): integers(bits, signed=False) for bits in WIDTHS},
    pa.float16(): floats(16),
    pa.float32(): floats(32),
    pa.float64(): floats(64),
    pa.string(): TEXTS,
    pa.large_string(): TEXTS,
    pa.binary(): st.binary(max_size=5),
    pa.large_binary(): st.binary(max_size=5),
    pa.binary(4): st.binary(min_size=4, max_size=4),
    pa.decimal128(5, 2): decimals(5, 2),
    pa.decimal128(38, 10): decimals(38, 10),
    pa.decimal256(60, 1): decimals(60, 1),
    pa.date32(): DAYS,
    pa.time32("ms"): st.times().map(lambda time: time.replace(microsecond=1000 * (time.microsecond // 1000))),
    pa.time64("us"): st.times(),
    pa.timestamp("ms"): MOMENTS.map(lambda moment: moment.replace(microsecond=0)),
    pa.timestamp("us"): MOMENTS,
    pa.timestamp("ns"): NEAR,
    pa.timestamp("us", "UTC"): zoned(MOMENTS),
    pa.timestamp("us", "America/New_York"): zoned(NEAR),
    pa.duration("us"): st.timedeltas(datetime.timedelta(-1000), datetime.timedelta(1000)),
    pa.dictionary(pa.int32(), pa.string()): TEXTS,
}
Nest = tuple[Callable[[pa.DataType], pa.DataType], Callable[[Any], Any]]
NESTS: dict[str, Nest] = {
    "plain": (lambda type_: type_, lambda value: value),
    "list": (pa.list_, lambda value: [value, None, value]),
    "large list": (pa.large_list, lambda value: [value]),
    "vector": (lambda type_: pa.list_(type_, 2), lambda value: [value, value]),
    "struct": (lambda type_: pa.struct({"x": type_, "y": pa.int8()}), lambda value: {"x": value, "y": 1}),
    "other struct": (lambda type_: pa.struct({"z": pa.bool_(), "x": type_}), lambda value: {"x": value, "z": True}),
    "map": (lambda type_: pa.map_(pa.string(), type_), lambda value: [("k", value), ("l", None)]),
    "deep": (lambda type_: pa.list_(pa.struct({"x": pa.list_(type_)})), lambda value: [{"x": [value]}, {"x": None}]),
}

PAIRS = [
    ("list", "large list"),
    ("list", "vector"),
    ("vector", "list"),
    ("struct", "other struct"),
    ("plain", "list"),
    ("struct", "map"),
]


@st.composite
def columns(draw: st.DrawFn, type_: pa.DataType, nest: str) -> pa.Array:
    """A column of a type in something: values, and a null."""
    values = draw(st.lists(TYPES[type_], min_size=1, max_size=3))
    wrap, fill = NESTS[nest]
    if pa.types.is_dictionary(type_) and nest == "vector":
        type_ = pa.string()  # which Arrow does not read
    return pa.array([*(fill(value) for value in values), None][:4] + [None] * (3 - len(values)), wrap(type_))


def refuse(found: Found, name: str) -> str | None:
    """The reason why a column is refused before work, if it is."""
    try:
        found.columns([name])
    except SourceError as error:
        return str(error)
    return None


def read_one(found: Found, name: str) -> list[Any] | str:
    """A column's values; or why they cannot be read."""
    try:
        return list(found.rows(found.columns([name]))[name].to_pylist())
    except SourceError as error:
        return str(error)


@pytest.mark.parametrize("first", TYPES, ids=str)
@settings(max_examples=EXAMPLES[PROFILE])
@given(data=st.data())
def test_two_files_of_any_types_are_whole_or_refused_before_work(first: pa.DataType, data: st.DataObject) -> None:
    nest, later_nest = data.draw(st.sampled_from([("plain",) * 2, *((n, n) for n in NESTS), *PAIRS]))
    before = data.draw(columns(first, nest))
    names = {f"c{place}": type_ for place, type_ in enumerate(TYPES)}
    tables = [
        dict.fromkeys(names, before),
        {name: data.draw(columns(type_, later_nest)) for name, type_ in names.items()},
    ]
    with TemporaryDirectory() as folder:
        found = write_files(Path(folder), *tables)
        went_in = [pq.read_table(f"{folder}/{place}.parquet") for place in (0, 1)]
        refused = {name: reason for name in names if (reason := refuse(found, name)) is not None}
        for name, reason in refused.items():
            told = (f"1.parquet: column {name!r}: expected", "as in 0.parquet, got", "--keep-columns")
            assert all(part in reason for part in told), reason
        for name in names.keys() - refused.keys():
            rows = read_one(found, name)
            wanted = [value for table in went_in for value in table[name].to_pylist()]
            assert is_same(rows, wanted), (names[name], rows, wanted)


def test_equal_types_and_nulls_are_never_refused(tmp_path: Path) -> None:
    for nest, (wrap, _) in NESTS.items():
        names = {f"c{place}": wrap(type_) for place, type_ in enumerate(TYPES) if nest != "vector"}
        empty = {name: pa.nulls(1, type_) for name, type_ in names.items()}
        found = write_files(
            tmp_path / nest, {"x": [1]} | empty, {"x": [1]} | empty, {"x": [1]} | dict.fromkeys(empty, pa.nulls(1))
        )
        assert set(names) <= set(found.columns(list(names)).schema.names)


NUMBERS = [type_ for type_ in TYPES if pa.types.is_integer(type_) or pa.types.is_floating(type_)]


@given(data=st.data())
def test_the_order_of_files_decides_nothing_about_numbers(data: st.DataObject) -> None:
    types = data.draw(st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=5))
    later = data.draw(st.permutations(types))
    assert unite_all(types) == unite_all(later)
    assert unite_all([pa.list_(one) for one in types]) == unite_all([pa.list_(one) for one in later])
    assert (unite_all(types) is None) == any(unite_all([one, other]) is None for one in types for other in types)


def test_whole_numbers_beside_a_float_are_held_by_it() -> None:
    assert unite_all([pa.uint32(), pa.int32(), pa.float64()]) == pa.float64()
