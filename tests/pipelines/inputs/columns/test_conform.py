"""Values of files in the kept type: the same ones, or an error that names the first that would not be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipelines.actors.captions import read_captions
from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import SourceFile, open_inputs
from pipelines.plan.units import Span
from t5enc.errors import SourceError
from tests.pipelines.actors.caption_files import find_columns, list_kept

LOCAL = pafs.LocalFileSystem()
PLAIN = SourceFile(source="a.parquet", path="a.parquet", size=0, partitions=())


def schema_of(table: pa.Table, keep: Sequence[str] | None = None) -> pa.Schema:
    return find_columns([(table.schema, PLAIN)], keep_columns=keep).schema


def read_kept(path: Path, table: pa.Table, schema: pa.Schema, root: Path | None = None) -> pa.Table:
    """What is kept of a file with this table, where the first file fixed the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    (file,) = open_inputs([str(root or path)]).files()
    footer = read_footer(LOCAL, file)
    span = Span(file=file, digest=footer.digest, first_row=0, num_rows=footer.num_rows, rows_per_unit=100)
    options: dict[str, Any] = {"text_column": "caption", "caption_choice": "all", "skip": lambda row: False}
    (batch,) = read_captions(LOCAL, span, schema=schema, **options)
    assert list_kept(batch).schema.equals(schema, check_metadata=True)
    list_kept(batch).validate(full=True)
    return list_kept(batch)


def test_partitions_and_columns_missing_in_later_files_are_filled(tmp_path: Path) -> None:
    types = {"caption": pa.string(), "lang": pa.string(), "year": pa.string(), "size": pa.int32()}
    nested = {"tags": pa.list_(pa.string()), "box": pa.struct({"x": pa.int8()}), "id": pa.binary(16)}
    schema = pa.schema(types | nested)
    path = tmp_path / "lang=d%65" / "year=__HIVE_DEFAULT_PARTITION__" / "size=12" / "a.parquet"
    kept = read_kept(path, pa.table({"caption": ["x", "y"]}), schema, tmp_path)
    row = {"lang": "de", "year": None, "size": 12, "tags": None, "box": None, "id": None}
    assert kept.to_pylist() == [{"caption": "x", **row}, {"caption": "y", **row}]


def test_types_that_differ_are_cast_without_loss(tmp_path: Path) -> None:
    schema = pa.schema(
        {"id": pa.int64(), "score": pa.float64(), "name": pa.string(), "box": pa.struct({"x": pa.int64()})}
    )
    table = pa.table(
        {
            "caption": ["x", "y"],
            "id": pa.array([1, None], pa.int8()),
            "score": pa.array([1, 2], pa.int32()),
            "name": pa.array(["n", None]).dictionary_encode(),
            "box": pa.array([{"x": 1}, None], pa.struct([pa.field("x", pa.int8(), nullable=False)])),
            "extra": [1, 2],
        }
    )
    kept = read_kept(tmp_path / "a.parquet", table, schema)
    assert kept["id"].to_pylist() == [1, None]
    assert kept["name"].to_pylist() == ["n", None]
    assert kept["box"].to_pylist() == [{"x": 1}, None]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([2**40]), "int64 that is the same as int32, got 1099511627776"),
        (pa.array(["7", "0012"]), "string that is the same as int32, got '0012'"),
        (pa.array([[1]]), r"list<.*> that is the same as int32, got list<.*>, of which none can be int32"),
        (pa.array([1.0, 1.5]), "double that is the same as int32, got 1.5"),
        (pa.array([{"x": 1}]), "struct<x: int64> that is the same as int32, got struct"),
    ],
    ids=str,
)
def test_a_value_that_would_change_is_named(tmp_path: Path, column: pa.Array, expected: str) -> None:
    table = pa.table({"caption": ["x"] * len(column), "id": column})
    with pytest.raises(SourceError, match=rf"^b\.parquet: column 'id': expected {expected}"):
        read_kept(tmp_path / "b.parquet", table, pa.schema({"id": pa.int32()}))


def test_a_text_column_missing_in_a_later_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"b\.parquet: expected a text column 'caption', got only c \(string\)"):
        read_kept(tmp_path / "b.parquet", pa.table({"c": ["x"]}), pa.schema({}))


def test_columns_of_captions_may_be_lists_in_one_file_and_strings_in_another(tmp_path: Path) -> None:
    schema = pa.schema({"caption": pa.string()})
    lists = pa.table({"caption": [["x", "y"], []]})
    assert read_kept(tmp_path / "a.parquet", lists, schema)["caption"].to_pylist() == ["x", "y", None]
    large = pa.table({"caption": pa.array(["x", None], pa.large_string())})
    assert read_kept(tmp_path / "a.parquet", large, schema)["caption"].to_pylist() == ["x", None]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
        pa.array([{"a": [1], "b": {"c": "x"}}, None]),
        pa.array([[("k", [1])], None], pa.map_(pa.string(), pa.list_(pa.int8()))),
        pa.array([["a", None], []], pa.list_(pa.string_view())),
        pa.array([b"0123456789abcdef", None], pa.uuid()),
        pa.array(["a", "b"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_kept_columns_of_every_shape_are_repeated_for_each_caption(tmp_path: Path, column: pa.Array) -> None:
    table = pa.table({"caption": [["x", "y"], ["z"]], "x": column})
    schema = schema_of(table, ["x"])
    kept = read_kept(tmp_path / "a.parquet", table, schema)
    first, second = (getattr(value, "bytes", value) for value in column.to_pylist())
    assert kept["x"].to_pylist() == [first, first, second]


def test_dots_in_names_are_only_dots(tmp_path: Path) -> None:
    table = pa.table({"caption": ["x"], "a": [{"b": 1, "c": 3}], "a.b": [2]})
    assert read_kept(tmp_path / "a.parquet", table, schema_of(table, ["a.b"]))["a.b"].to_pylist() == [2]
    assert read_kept(tmp_path / "a.parquet", table, schema_of(table)).to_pylist() == table.to_pylist()
