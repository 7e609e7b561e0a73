"""Kept columns: which of them, in which type, and what one file that differs has to do with it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pipelines.inputs.sources import SourceFile
from t5enc.errors import SourceError
from t5enc.storage import SCHEMA as OUTPUT_SCHEMA
from tests.pipelines.actors.caption_files import find_columns

LOCAL = pafs.LocalFileSystem()
PARTITIONS = (("lang", "en"), ("year", None))
FILE = SourceFile(source="lang=en/a.parquet", path="a.parquet", size=0, partitions=PARTITIONS)
PLAIN = SourceFile(source="a.parquet", path="a.parquet", size=0, partitions=())


def schema_of(
    schema: pa.Schema, keep: Sequence[str] | None = None, file: SourceFile = PLAIN, text: str = "caption"
) -> pa.Schema:
    kept: pa.Schema = find_columns([(schema, file)], text, keep_columns=keep).schema
    return kept


BINARY_TYPES = [
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(16),
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
        (pa.uuid(), pa.binary(16)),
        (pa.struct({"id": pa.uuid(), "x": pa.int8()}), pa.struct({"id": pa.binary(16), "x": pa.int8()})),
        (pa.json_(), pa.string()),
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
