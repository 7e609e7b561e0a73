"""Files whose columns differ: what is kept of them all, what is refused by name, and what is said of it."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inputs.columns.words import describe_columns
from t5enc.errors import ConfigError, SourceError
from tests.pipelines.inputs.columns.kept_rows import write_files

NOON = datetime.datetime(2024, 2, 29, 12)


def kept(folder: Path, *tables: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """The kept rows of such files, captions aside."""
    found = write_files(folder, *tables)
    rows: list[dict[str, Any]] = found.rows(found.columns(**options)).to_pylist()
    return [{name: value for name, value in row.items() if name != "caption"} for row in rows]


@pytest.mark.parametrize(
    ("first", "later", "type_"),
    [
        (pa.nulls(1), pa.array(["x"]), pa.string()),
        (pa.array([[]], pa.list_(pa.null())), pa.array([["a"]]), pa.list_(pa.string())),
        (pa.array([{"x": None}]), pa.array([{"x": 1}]), pa.struct({"x": pa.int64()})),
        (pa.array([1], pa.int32()), pa.array([2**40]), pa.int64()),
        (pa.array([200], pa.uint8()), pa.array([-1], pa.int8()), pa.int16()),
        (pa.array([1], pa.int32()), pa.array([0.5]), pa.float64()),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), pa.string()),
        (pa.array(["a"], pa.large_string()), pa.array(["b"]), pa.large_string()),
        (pa.array([NOON], pa.timestamp("ms")), pa.array([NOON], pa.timestamp("us")), pa.timestamp("us")),
        (pa.array([{"w": 1}]), pa.array([{"h": 3, "w": 2}]), {"w": pa.int64(), "h": pa.int64()}),
        (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), pa.array([[3]], pa.list_(pa.int8(), 1)), pa.list_(pa.int8())),
    ],
    ids=str,
)
def test_what_one_type_holds_is_kept_in_it(tmp_path: Path, first: Any, later: Any, type_: Any) -> None:
    type_ = pa.struct(type_) if isinstance(type_, dict) else type_
    for folder, pair in {"a": (first, later), "b": (later, first)}.items():
        found = write_files(tmp_path / folder, *({"x": one} for one in pair))
        united = found.columns().schema.field("x").type
        wanted = [value for one in pair for value in one.to_pylist()]
        if isinstance(wanted[0], dict):
            assert {part.name: part.type for part in united} == {part.name: part.type for part in type_}
            wanted = [{part.name: value.get(part.name) for part in type_} for value in wanted]
        else:
            assert united == type_
        assert found.rows()["x"].to_pylist() == wanted


@pytest.mark.parametrize(
    ("first", "later", "hint"),
    [
        (pa.array([7]), pa.array(["0012"]), "(--cast x=string)"),
        (pa.array([7]), pa.array([0.5]), "(--cast x=float64)"),
        (pa.array([True]), pa.array([7]), "(--cast x=string)"),
        (pa.array([NOON.date()]), pa.array([NOON]), "(--cast x=string)"),
        (pa.array([NOON]), pa.array([NOON], pa.timestamp("us", "America/New_York")), "(--cast x=string)"),
        (pa.array([NOON]), pa.array([NOON], pa.timestamp("ns")), "(--cast x=timestamp[us])"),
        (
            pa.array([NOON], pa.timestamp("us", "UTC")),
            pa.array([NOON], pa.timestamp("ns", "UTC")),
            "(--cast x=timestamp[us,tz=UTC])",
        ),
        (pa.array([{"w": 1}]), pa.array(["{}"]), "(--keep-columns)"),
        (pa.array([{"w": 1}]), pa.array([{"w": "1"}]), "(--keep-columns)"),
        (pa.array([{"w": 1}]), pa.array([{"width": 1}]), "(--keep-columns)"),
        (pa.array([1], pa.uint64()), pa.array([-1]), "(--cast x=float64)"),
    ],
    ids=str,
)
def test_other_differences_are_refused_with_both_files_both_types_and_what_decides(
    tmp_path: Path, first: pa.Array, later: pa.Array, hint: str
) -> None:
    found = write_files(tmp_path, {"x": first}, {"x": first}, {"x": later})
    with pytest.raises(SourceError) as caught:
        found.columns()
    types = [pq.read_schema(tmp_path / f"{place}.parquet").field("x").type for place in (0, 2)]
    told = f"2.parquet: column 'x': expected {types[0]} as in 0.parquet, got {types[1]}: leave it out (--keep-columns)"
    assert str(caught.value).startswith(told)
    assert str(caught.value).endswith(hint)
    assert found.columns(["caption"]).schema.names == ["caption"]


def test_one_error_tells_of_all_columns_that_differ(tmp_path: Path) -> None:
    names = [f"c{place}" for place in range(12)]
    found = write_files(tmp_path, {name: [1] for name in names}, {name: ["1"] for name in names})
    with pytest.raises(SourceError) as caught:
        found.columns()
    lines = str(caught.value).splitlines()
    assert len(lines) == 9
    assert lines[-1] == "and 4 columns more"


def test_columns_come_and_go(tmp_path: Path) -> None:
    rows = kept(tmp_path, {"url": ["u"]}, {"score": [5.5]}, {"score": [1.5], "url": ["v"]})
    assert rows == [{"url": "u", "score": None}, {"url": None, "score": 5.5}, {"url": "v", "score": 1.5}]


def test_partitions_come_and_go_and_differ_from_columns_of_their_name(tmp_path: Path) -> None:
    files: dict[str, dict[str, Any]] = {"lang=en/a": {"n": [1]}, "b": {"n": [2]}}
    for name, table in {**files, "lang=de/c": {"n": [3], "lang": ["fr"]}}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"caption": ["x"], **table}), tmp_path / f"{name}.parquet")
    found = write_files(tmp_path)
    assert found.rows()["lang"].to_pylist() == [None, "fr", "en"]
    said = "lang is not there in b.parquet, string in lang=de/c.parquet, string of the path in lang=en/a.parquet: kept"
    assert said in describe_columns(found.columns())["files differ"]
    pq.write_table(pa.table({"caption": ["x"], "lang": [7]}), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=r"column 'lang': expected int64 as in b\.parquet, got string"):
        write_files(tmp_path).columns()


def test_files_without_rows_say_nothing_of_types(tmp_path: Path) -> None:
    empty = {"url": pa.nulls(0), "width": pa.array([], pa.string())}
    assert kept(tmp_path, empty, {"url": ["u"], "width": [1]}) == [{"url": "u", "width": 1}]


@pytest.mark.parametrize(
    ("first", "later", "cast", "values"),
    [
        ([7], ["0012"], "string", ["7", "0012"]),
        ([7], [0.5], "float64", [7.0, 0.5]),
        (["7"], [12], "int64", [7, 12]),
        ([True], [False], "string", ["true", "false"]),
        ([NOON], [NOON.replace(hour=0)], "string", ["2024-02-29 12:00:00.000000", "2024-02-29 00:00:00.000000"]),
        ([Decimal("0.5")], [Decimal("-12.25")], "float64", [0.5, -12.25]),
        ([-0.0], [0.0], "string", ["-0", "0"]),
        ([1.5, None], [2.5, None], "float16", [1.5, None, 2.5, None]),
    ],
)
def test_a_cast_that_changes_nothing_is_made(
    tmp_path: Path, first: list[Any], later: list[Any], cast: str, values: list[Any]
) -> None:
    rows = kept(tmp_path, {"x": first}, {"x": later}, cast={"x": cast})
    assert [row["x"] for row in rows] == values


@pytest.mark.parametrize(
    ("values", "cast", "got"),
    [
        (["7", "0012"], "int64", "'0012'"),
        (["seven"], "int64", "'seven'"),
        ([0, 1, 7], "bool", "7"),
        ([1.5, 100000.0], "float16", "100000.0"),
        ([2**53 + 1], "float64", "9007199254740993"),
        ([NOON], "date32", r"datetime\.datetime"),
        ([1.5], "int64", "1.5"),
        ([-0.0], "int64", "-0.0"),
        ([Decimal("0.5"), Decimal("0.1")], "float32", r"Decimal\('0.1'\)"),
        (pa.array([10**18], pa.timestamp("ms")), "timestamp[us]", "10{18}"),
        (["2024-01-01T00:00:00Z"], "timestamp[s, tz=UTC]", "'2024-01-01T00:00:00Z'"),
        ([b"\xff"], "string", r"b'\\xff'"),
    ],
)
def test_a_cast_that_would_change_a_value_names_it(tmp_path: Path, values: Any, cast: str, got: str) -> None:
    with pytest.raises(SourceError, match=rf"^0\.parquet: column 'x': expected .* that is the same as .*, got {got}"):
        kept(tmp_path, {"x": values}, cast={"x": cast}, keep=["x"])


@pytest.mark.parametrize(
    ("values", "cast"), [([[1]], "int64"), ([{"a": 1}], "string"), ([NOON], "timestamp[us, tz=UTC]")]
)
def test_a_cast_that_no_value_goes_through_is_refused_before_work(tmp_path: Path, values: Any, cast: str) -> None:
    found = write_files(tmp_path, {"x": values})
    with pytest.raises(SourceError, match=r"0\.parquet: column 'x': expected a type that --cast can make"):
        found.columns(cast={"x": cast})


def test_a_cast_of_no_column_no_type_or_the_captions_is_refused(tmp_path: Path) -> None:
    found = write_files(tmp_path, {"x": [1]})
    with pytest.raises(SourceError, match="cast: 'y': expected one of the columns that are kept: caption, x"):
        found.columns(cast={"y": "int64"})
    with pytest.raises(ConfigError, match=r"cast: x: expected a type such as .*, got 'whole'"):
        found.columns(cast={"x": "whole"})
    with pytest.raises(ConfigError, match="that is only kept, got 'caption'"):
        found.columns(cast={"caption": "string"})


def test_moments_of_int96_are_those_that_were_written(tmp_path: Path) -> None:
    moments = [datetime.datetime(9999, 12, 31, 23, 59, 59), datetime.datetime(2021, 6, 9, 3, 2, 37), None]
    found = write_files(tmp_path, {"x": pa.array(moments, pa.timestamp("us"))}, use_deprecated_int96_timestamps=True)
    assert found.rows()["x"].to_pylist() == moments


def test_what_is_kept_left_out_and_different_is_said_in_three_lines(tmp_path: Path) -> None:
    found = write_files(
        tmp_path,
        {"id": pa.array([1], pa.int32()), "jpg": [b"a"], "two\nlines": ["x"]},
        {"id": [2], "jpg": [b"b"], "two\nlines": ["y"]},
        {"id": [3], "score": [0.5]},
    )
    assert describe_columns(found.columns()) == {
        "columns kept": "caption (string), id (int64), 'two\\nlines' (string), score (double)",
        "left out": "jpg (binary)",
        "files differ": (
            "id is int32 in 0.parquet, int64 in 1.parquet and 1 more: kept as int64; "
            "'two\\nlines' is string in 0.parquet and 1 more, not there in 2.parquet: kept as string; "
            "score is not there in 0.parquet and 1 more, double in 2.parquet: kept as double"
        ),
    }
    many = write_files(tmp_path / "many", {f"c{place:02d}": [place] for place in range(30)}).columns()
    assert describe_columns(many)["columns kept"].endswith("c09 (int64), c10 (int64), and 19 more")
    assert describe_columns(write_files(tmp_path / "none", {"x": [1]}).columns([]))["columns kept"] == "none"


def test_what_writers_call_the_values_of_a_list_is_no_difference(tmp_path: Path) -> None:
    write_files(tmp_path, {"x": [[1]], "y": [[{"z": ["a"]}]]})
    table = pa.table({"caption": ["b"], "x": [[2]], "y": [[{"z": ["c"]}]]})
    pq.write_table(table, tmp_path / "1.parquet", use_compliant_nested_type=False)
    names = [pq.read_schema(tmp_path / f"{place}.parquet").field("x").type.value_field.name for place in (0, 1)]
    assert names == ["element", "item"]
    found = write_files(tmp_path)
    assert not found.columns().found
    assert found.rows()["y"].to_pylist() == [[{"z": ["a"]}], [{"z": ["c"]}]]


TWICE = pa.struct([pa.field("a", pa.int32(), nullable=False), pa.field("a", pa.int32())])


def test_fields_of_one_name_are_kept_by_their_place(tmp_path: Path) -> None:
    parts = [pa.array([1, 2], pa.int32()), pa.array([10, 20], pa.int32())]
    column = pa.StructArray.from_arrays(parts, fields=list(TWICE))
    for folder, nested in {"plain": column, "list": pa.ListArray.from_arrays([0, 1, 2], column)}.items():
        found = write_files(tmp_path / folder, {"s": nested}, {"s": nested}, {"s": pa.nulls(2)})
        kept = found.rows()["s"].combine_chunks()
        flat = (kept if folder == "plain" else kept.flatten()).drop_null().flatten()
        assert [part.to_pylist() for part in flat] == [[1, 2, 1, 2], [10, 20, 10, 20]]
    (tmp_path / "other").mkdir()
    with pytest.raises(SourceError, match=r"column 's': expected struct<a: int32, a: int32> as in 0.parquet"):
        write_files(tmp_path / "other", {"s": column}, {"s": [{"a": 1}]}).columns()
