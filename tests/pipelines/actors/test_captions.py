"""Reading captions: every text type reads alike, lists give one after the other, and what is no text says why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.actors.captions import CaptionBatch
from t5enc.errors import SourceError
from tests.pipelines.actors.caption_files import LOCAL, list_kept, read, whole, write


def read_column(path: Path, column: pa.Array, **options: Any) -> CaptionBatch:
    """The only batch of a file with this caption column beside the row number."""
    table = pa.table({"caption": column, "number": pa.array(range(len(column)), pa.int32())})
    (batch,) = read(whole(LOCAL, write(path / "a.parquet", table)), rows_per_unit=1000, **options)
    assert list_kept(batch).num_rows == len(batch.texts) == len(batch.reasons) == len(batch.rows)
    assert all((text is None) != (reason is None) for text, reason in zip(batch.texts, batch.reasons, strict=True))
    assert list_kept(batch)["number"].to_pylist() == batch.rows.tolist()
    return batch


def in_strings(values: Sequence[bytes | None], type_: pa.DataType) -> pa.Array:
    """Bytes behind a string type, as files of careless writers hold them."""
    binary = pa.binary() if type_ == pa.string() else pa.large_binary()
    array = pa.array(values, binary)
    return pa.Array.from_buffers(type_, len(array), array.buffers())


TEXTS = ["a red bird", None, "", "ein Fuß, 日本 🐦", "a\0b"]
SCALAR_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
]


@pytest.mark.parametrize("type_", SCALAR_TYPES, ids=str)
def test_every_text_type_reads_alike(tmp_path: Path, type_: pa.DataType) -> None:
    values = pa.array(TEXTS)
    column = values.dictionary_encode() if pa.types.is_dictionary(type_) else values
    batch = read_column(tmp_path, column.cast(type_))
    assert batch.texts == TEXTS
    assert batch.reasons == [None, "null caption", None, None, None]
    assert batch.rows.tolist() == [0, 1, 2, 3, 4]
    assert batch.caption_indices.tolist() == [0] * 5
    assert batch.rows.dtype.name == "int64"
    assert batch.caption_indices.dtype.name == "int32"
    if "caption" in list_kept(batch).column_names:
        assert list_kept(batch)["caption"].to_pylist() == TEXTS


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()], ids=str)
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_bytes_that_are_no_text_spoil_their_row_only(tmp_path: Path, type_: pa.DataType, use_dictionary: bool) -> None:
    column = in_strings([b"good", b"caf\xe9", None, b"\xed\xa0\x80", "ñ".encode()], type_)
    for values in (column, column.dictionary_encode(), column.cast(pa.binary())):
        batch = read_column(tmp_path, values)
        assert batch.texts == ["good", None, None, None, "ñ"]
        assert batch.reasons == [None, "not UTF-8", "null caption", "not UTF-8", None]
    batch = read_column(tmp_path, column)
    assert list_kept(batch)["caption"].to_pylist() == ["good", None, None, None, "ñ"]
    list_kept(batch).validate(full=True)


def test_bytes_kept_as_bytes_stay_as_they_are(tmp_path: Path) -> None:
    values = [b"good", b"caf\xe9", None]
    schema = pa.schema({"caption": pa.binary(), "number": pa.int32()})
    batch = read_column(tmp_path, pa.array(values), schema=schema)
    assert list_kept(batch)["caption"].to_pylist() == values


@pytest.mark.parametrize(
    "column",
    [pa.array([1, None]), pa.array([{"a": "x"}, None]), pa.array([[1], []]), pa.array([True, False])],
    ids=lambda column: str(column.type),
)
def test_a_column_of_another_type_is_named(tmp_path: Path, column: pa.Array) -> None:
    table = pa.table({"caption": column})
    span = whole(LOCAL, write(tmp_path / "a.parquet", table))
    with pytest.raises(SourceError, match=r"^a\.parquet: column 'caption': expected text, .*: not text\. "):
        read(span, schema=pa.schema({}))


def test_a_column_of_nothing_but_nulls_reads_as_null_captions(tmp_path: Path) -> None:
    batch = read_column(tmp_path, pa.nulls(3))
    assert batch.reasons == ["null caption"] * 3
    assert list_kept(batch).schema.field("caption").type == pa.string()


LISTS = [["one", "two"], [], None, ["three"], [None, "four"], [""]]
LIST_TYPES = [
    pa.list_(pa.string()),
    pa.large_list(pa.string()),
    pa.list_(pa.large_string()),
    pa.list_(pa.string_view()),
    pa.list_(pa.dictionary(pa.int8(), pa.string())),
    pa.list_view(pa.string()),
]


@pytest.mark.parametrize("type_", LIST_TYPES, ids=str)
def test_all_captions_of_a_row_follow_each_other(tmp_path: Path, type_: pa.DataType) -> None:
    batch = read_column(tmp_path, pa.array(LISTS, type_))
    assert batch.num_rows == len(LISTS)
    assert batch.texts == ["one", "two", None, None, "three", None, "four", ""]
    assert batch.rows.tolist() == [0, 0, 1, 2, 3, 4, 4, 5]
    assert batch.caption_indices.tolist() == [0, 1, 0, 0, 0, 0, 1, 0]
    no_caption = ["no caption", "no caption"]
    assert batch.reasons == [None, None, *no_caption, None, "null caption", None, None]
    assert list_kept(batch).schema.field("caption").type == pa.string()
    assert list_kept(batch)["caption"].to_pylist() == batch.texts


@pytest.mark.parametrize("type_", LIST_TYPES, ids=str)
def test_the_first_caption_of_a_row_can_stand_for_it(tmp_path: Path, type_: pa.DataType) -> None:
    batch = read_column(tmp_path, pa.array(LISTS, type_), choice="first")
    assert batch.texts == ["one", None, None, "three", None, ""]
    assert batch.reasons == [None, "no caption", "no caption", None, "null caption", None]
    assert batch.rows.tolist() == list(range(6))
    assert not batch.caption_indices.any()
    assert list_kept(batch)["caption"].to_pylist() == batch.texts


def test_lists_of_fixed_size_of_nothing_and_of_bad_bytes(tmp_path: Path) -> None:
    fixed = read_column(tmp_path, pa.array([["a", "b"], None, ["c", None]], pa.list_(pa.string(), 2)))
    assert fixed.texts == ["a", "b", None, "c", None]
    assert fixed.reasons == [None, None, "no caption", None, "null caption"]
    assert read_column(tmp_path, pa.array([[], None], pa.list_(pa.null()))).reasons == ["no caption"] * 2
    values = in_strings([b"good", b"\xff", b"fine"], pa.string())
    bad = read_column(tmp_path, pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), values))
    assert (bad.texts, bad.reasons) == (["good", None, "fine"], [None, "not UTF-8", None])
    assert list_kept(bad)["caption"].to_pylist() == ["good", None, "fine"]


def test_text_of_an_extension_type_is_text(tmp_path: Path) -> None:
    batch = read_column(tmp_path, pa.array(['{"a": 1}', None], pa.json_()))
    assert batch.texts == ['{"a": 1}', None]
