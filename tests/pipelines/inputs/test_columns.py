"""Kept columns: chosen by the first file, and what becomes of files that differ from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipelines.actors.captions import read_captions
from pipelines.inputs.columns import kept_schema
from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import SourceFile, open_inputs
from pipelines.plan.units import Span
from t5enc.errors import SourceError
from t5enc.storage import SCHEMA as OUTPUT_SCHEMA

LOCAL = pafs.LocalFileSystem()
PARTITIONS = (("lang", "en"), ("year", None))
FILE = SourceFile(source="lang=en/a.parquet", path="a.parquet", size=0, partitions=PARTITIONS)
PLAIN = SourceFile(source="a.parquet", path="a.parquet", size=0, partitions=())


def schema_of(
    schema: pa.Schema, keep: Sequence[str] | None = None, file: SourceFile = PLAIN, text: str = "caption"
) -> pa.Schema:
    kept: pa.Schema = kept_schema(schema, file, text_column=text, keep_columns=keep)
    return kept


BINARY_TYPES = [
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(16),
    pa.uuid(),
    pa.dictionary(pa.int8(), pa.binary()),
    pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    pa.list_(pa.struct({"x": pa.list_(pa.large_binary())})),
    pa.list_(pa.binary(), 2),
    pa.map_(pa.string(), pa.binary()),
]


def test_by_default_all_but_binary_columns_and_partitions_are_kept() -> None:
    columns = {"id": pa.int64(), "caption": pa.string(), "tags": pa.list_(pa.string())}
    binary = {f"image {i}": type_ for i, type_ in enumerate(BINARY_TYPES)}
    kept = schema_of(pa.schema(columns | binary), file=FILE)
    assert kept == pa.schema(columns | {"lang": pa.string(), "year": pa.string()})


def test_a_file_column_wins_over_a_partition_of_its_name() -> None:
    kept = schema_of(pa.schema({"caption": pa.string(), "year": pa.int64()}), file=FILE)
    assert kept == pa.schema({"caption": pa.string(), "year": pa.int64(), "lang": pa.string()})


def test_a_list_of_names_keeps_exactly_those() -> None:
    schema = pa.schema({"caption": pa.string(), "image": pa.binary(), "id": pa.int64()})
    assert schema_of(schema, ["lang", "image"], FILE) == pa.schema({"lang": pa.string(), "image": pa.binary()})
    assert schema_of(schema, []) == pa.schema([])


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (pa.dictionary(pa.int32(), pa.string()), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.list_view(pa.int8()), pa.list_(pa.int8())),
        (pa.large_list_view(pa.int8()), pa.large_list(pa.int8())),
        (pa.list_(pa.dictionary(pa.int8(), pa.string())), pa.list_(pa.string())),
        (
            pa.struct([pa.field("a", pa.dictionary(pa.int8(), pa.int64()), nullable=False)]),
            pa.struct({"a": pa.int64()}),
        ),
        (pa.map_(pa.string(), pa.string_view()), pa.map_(pa.string(), pa.string())),
        (pa.list_(pa.float32(), 4), pa.list_(pa.float32(), 4)),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
    ],
    ids=str,
)
def test_kept_types_are_the_data_without_its_layout(found: pa.DataType, kept: pa.DataType) -> None:
    field = pa.field("x", found, nullable=False, metadata={"PARQUET:field_id": "1"})
    schema = pa.schema([pa.field("caption", pa.string()), field], metadata={"pandas": "{}"})
    result = schema_of(schema)
    assert result.equals(pa.schema({"caption": pa.string(), "x": kept}), check_metadata=True)


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (pa.list_(pa.string()), pa.string()),
        (pa.large_list(pa.large_string()), pa.string()),
        (pa.null(), pa.string()),
        (pa.large_string(), pa.large_string()),
        (pa.int64(), pa.int64()),
    ],
    ids=str,
)
def test_the_text_column_is_kept_as_one_caption(found: pa.DataType, kept: pa.DataType) -> None:
    assert schema_of(pa.schema({"caption": found})).field("caption").type == kept


def test_a_missing_text_column_lists_the_columns_there() -> None:
    schema = pa.schema({"text": pa.string(), "meta": pa.struct({"caption": pa.string()})})
    with pytest.raises(SourceError) as caught:
        schema_of(schema, text="meta.caption")
    assert str(caught.value) == (
        "a.parquet: expected a text column 'meta.caption', got only text (string), meta (struct<caption: string>)"
    )


def test_an_unknown_column_to_keep_lists_the_columns_there() -> None:
    with pytest.raises(SourceError, match=r"'idd': expected one of .*caption \(string\), id \(int8\), lang"):
        schema_of(pa.schema({"caption": pa.string(), "id": pa.int8()}), ["id", "idd"], FILE)


@pytest.mark.parametrize("name", [*OUTPUT_SCHEMA.names, "text_embedding_bytes_2"])
def test_names_of_output_columns_collide(name: str) -> None:
    schema = pa.schema({"caption": pa.string(), name: pa.int8(), "text_embedding": pa.int8()})
    with pytest.raises(SourceError, match=f"'{name}' collides with the output column"):
        schema_of(schema)
    assert schema_of(schema, ["text_embedding"]).names == ["text_embedding"]


def test_a_name_of_several_columns_is_refused_where_it_is_needed() -> None:
    schema = pa.schema([("caption", pa.string()), ("x", pa.int8()), ("x", pa.int8())])
    with pytest.raises(SourceError, match="column 'x': expected one of that name, got 2"):
        schema_of(schema)
    assert schema_of(schema, ["caption"]).names == ["caption"]
    with pytest.raises(SourceError, match="column 'x': expected one of that name, got 2"):
        schema_of(schema, ["caption"], text="x")


def read_kept(path: Path, table: pa.Table, schema: pa.Schema, root: Path | None = None) -> pa.Table:
    """What is kept of a file with this table, where the first file fixed the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    (file,) = open_inputs([str(root or path)]).files()
    footer = read_footer(LOCAL, file)
    span = Span(file=file, digest=footer.digest, first_row=0, num_rows=footer.num_rows, rows_per_unit=100)
    options: dict[str, Any] = {"text_column": "caption", "caption_choice": "all", "skip": lambda row: False}
    (batch,) = read_captions(LOCAL, span, schema=schema, **options)
    assert batch.kept.schema.equals(schema, check_metadata=True)
    batch.kept.validate(full=True)
    return batch.kept


def test_partitions_and_columns_missing_in_later_files_are_filled(tmp_path: Path) -> None:
    types = {"caption": pa.string(), "lang": pa.string(), "year": pa.string(), "size": pa.int32()}
    nested = {"tags": pa.list_(pa.string()), "box": pa.struct({"x": pa.int8()}), "id": pa.uuid()}
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
        (pa.array([2**40]), r"int32 as in the first file, got int64: .*not in range"),
        (pa.array(["seven"]), "int32 as in the first file, got string"),
        (pa.array([[1]]), "int32 as in the first file, got list"),
        (pa.array([1.5]), "int32 as in the first file, got double"),
    ],
    ids=str,
)
def test_types_that_cannot_be_cast_are_named(tmp_path: Path, column: pa.Array, expected: str) -> None:
    table = pa.table({"caption": ["x"], "id": column})
    with pytest.raises(SourceError, match=rf"^b\.parquet: column 'id': expected {expected}"):
        read_kept(tmp_path / "b.parquet", table, pa.schema({"id": pa.int32()}))


def test_a_text_column_missing_in_a_later_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"b\.parquet: expected a text column 'caption', got only c \(string\)"):
        read_kept(tmp_path / "b.parquet", pa.table({"c": ["x"]}), pa.schema({}))


def test_columns_of_captions_may_be_lists_in_one_file_and_strings_in_another(tmp_path: Path) -> None:
    schema = schema_of(pa.schema({"caption": pa.string()}))
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
    schema = schema_of(table.schema, ["x"])
    kept = read_kept(tmp_path / "a.parquet", table, schema)
    first, second = column.to_pylist()
    assert kept["x"].to_pylist() == [first, first, second]


def test_dots_in_names_are_only_dots(tmp_path: Path) -> None:
    table = pa.table({"caption": ["x"], "a": [{"b": 1, "c": 3}], "a.b": [2]})
    schema = schema_of(table.schema, ["a.b"])
    assert read_kept(tmp_path / "a.parquet", table, schema)["a.b"].to_pylist() == [2]
    assert read_kept(tmp_path / "a.parquet", table, schema_of(table.schema)).to_pylist() == table.to_pylist()
