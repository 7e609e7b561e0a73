"""Reading captions: every text type, units and what is skipped, kept columns, and files that differ."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.actors.captions import CaptionBatch, read_captions
from pipelines.inputs.columns import kept_schema
from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import SourceFile, open_inputs
from pipelines.plan.units import Span
from t5enc.errors import SourceError

LOCAL = pafs.LocalFileSystem()


class CountingFile(io.BytesIO):
    """A file that counts the bytes read from it."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


class OneFile:
    """A filesystem of one file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.opened = CountingFile(data)

    def open_input_file(self, path: str) -> Any:
        self.opened = CountingFile(self.data)
        return pa.PythonFile(self.opened, mode="r")


def write(path: Path, table: pa.Table, **options: Any) -> SourceFile:
    pq.write_table(table, path, **options)
    return SourceFile(source=path.name, path=str(path), size=path.stat().st_size, partitions=())


def whole(filesystem: Any, file: SourceFile) -> Span:
    footer = read_footer(filesystem, file)
    return Span(file=file, digest=footer.digest, first_row=0, num_rows=footer.num_rows)


def read(
    span: Span,
    *,
    schema: pa.Schema | None = None,
    choice: Any = "all",
    rows_per_unit: int = 10,
    skip: Callable[[int], bool] = lambda row: False,
    filesystem: Any = LOCAL,
) -> list[CaptionBatch]:
    if schema is None:
        found = read_footer(filesystem, span.file).schema
        schema = kept_schema(found, span.file, text_column="caption", keep_columns=None)
    return list(
        read_captions(
            filesystem,
            span,
            text_column="caption",
            caption_choice=choice,
            schema=schema,
            rows_per_unit=rows_per_unit,
            skip=skip,
        )
    )


def read_column(path: Path, column: pa.Array, **options: Any) -> CaptionBatch:
    """The only batch of a file with this caption column beside the row number."""
    table = pa.table({"caption": column, "number": pa.array(range(len(column)), pa.int32())})
    (batch,) = read(whole(LOCAL, write(path / "a.parquet", table)), rows_per_unit=1000, **options)
    assert batch.kept.num_rows == len(batch.texts) == len(batch.reasons) == len(batch.rows)
    assert all((text is None) != (reason is None) for text, reason in zip(batch.texts, batch.reasons, strict=True))
    assert batch.kept["number"].to_pylist() == batch.rows.tolist()
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
    if "caption" in batch.kept.column_names:
        assert batch.kept["caption"].to_pylist() == TEXTS


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()], ids=str)
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_bytes_that_are_no_text_spoil_their_row_only(tmp_path: Path, type_: pa.DataType, use_dictionary: bool) -> None:
    column = in_strings([b"good", b"caf\xe9", None, b"\xed\xa0\x80", "ñ".encode()], type_)
    for values in (column, column.dictionary_encode(), column.cast(pa.binary())):
        batch = read_column(tmp_path, values)
        assert batch.texts == ["good", None, None, None, "ñ"]
        assert batch.reasons == [None, "not UTF-8", "null caption", "not UTF-8", None]
    batch = read_column(tmp_path, column)
    assert batch.kept["caption"].to_pylist() == ["good", None, None, None, "ñ"]
    batch.kept.validate(full=True)


def test_bytes_kept_as_bytes_stay_as_they_are(tmp_path: Path) -> None:
    values = [b"good", b"caf\xe9", None]
    schema = pa.schema({"caption": pa.binary(), "number": pa.int32()})
    batch = read_column(tmp_path, pa.array(values), schema=schema)
    assert batch.kept["caption"].to_pylist() == values


@pytest.mark.parametrize(
    "column",
    [pa.array([1, None]), pa.array([{"a": "x"}, None]), pa.array([[1], []]), pa.array([True, False])],
    ids=lambda column: str(column.type),
)
def test_a_column_of_another_type_is_a_reason_for_every_row(tmp_path: Path, column: pa.Array) -> None:
    batch = read_column(tmp_path, column)
    type_ = pq.read_schema(tmp_path / "a.parquet").field("caption").type
    assert batch.reasons == [f"not text: {type_}"] * 2
    assert batch.kept["caption"].to_pylist() == column.to_pylist()
    strings = pa.schema({"caption": pa.string(), "number": pa.int32()})
    batch = read_column(tmp_path, column, schema=strings)
    assert batch.reasons == [f"not text: {type_}"] * 2
    assert batch.kept["caption"].to_pylist() == [None, None]


def test_a_column_of_nothing_but_nulls_reads_as_null_captions(tmp_path: Path) -> None:
    batch = read_column(tmp_path, pa.nulls(3))
    assert batch.reasons == ["null caption"] * 3
    assert batch.kept.schema.field("caption").type == pa.string()


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
    assert batch.kept.schema.field("caption").type == pa.string()
    assert batch.kept["caption"].to_pylist() == batch.texts


@pytest.mark.parametrize("type_", LIST_TYPES, ids=str)
def test_the_first_caption_of_a_row_can_stand_for_it(tmp_path: Path, type_: pa.DataType) -> None:
    batch = read_column(tmp_path, pa.array(LISTS, type_), choice="first")
    assert batch.texts == ["one", None, None, "three", None, ""]
    assert batch.reasons == [None, "no caption", "no caption", None, "null caption", None]
    assert batch.rows.tolist() == list(range(6))
    assert not batch.caption_indices.any()
    assert batch.kept["caption"].to_pylist() == batch.texts


def test_lists_of_fixed_size_of_nothing_and_of_bad_bytes(tmp_path: Path) -> None:
    fixed = read_column(tmp_path, pa.array([["a", "b"], None, ["c", None]], pa.list_(pa.string(), 2)))
    assert fixed.texts == ["a", "b", None, "c", None]
    assert fixed.reasons == [None, None, "no caption", None, "null caption"]
    assert read_column(tmp_path, pa.array([[], None], pa.list_(pa.null()))).reasons == ["no caption"] * 2
    values = in_strings([b"good", b"\xff", b"fine"], pa.string())
    bad = read_column(tmp_path, pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), values))
    assert (bad.texts, bad.reasons) == (["good", None, "fine"], [None, "not UTF-8", None])
    assert bad.kept["caption"].to_pylist() == ["good", None, "fine"]


def test_text_of_an_extension_type_is_text(tmp_path: Path) -> None:
    batch = read_column(tmp_path, pa.array(['{"a": 1}', None], pa.json_()))
    assert batch.texts == ['{"a": 1}', None]


captions = st.none() | st.text(max_size=5)


@given(
    lists=st.lists(st.none() | st.lists(captions, max_size=4), min_size=1, max_size=40),
    rows_per_unit=st.integers(1, 45),
    row_group_size=st.integers(1, 45),
)
def test_every_caption_comes_once_and_in_order(
    lists: list[list[str | None] | None], rows_per_unit: int, row_group_size: int
) -> None:
    sink = io.BytesIO()
    table = pa.table({"caption": pa.array(lists, pa.list_(pa.string())), "id": [f"id {i}" for i in range(len(lists))]})
    pq.write_table(table, sink, row_group_size=row_group_size)
    filesystem = OneFile(sink.getvalue())
    file = SourceFile(source="a", path="a", size=len(sink.getvalue()), partitions=())
    batches = read(whole(filesystem, file), rows_per_unit=rows_per_unit, filesystem=filesystem)
    assert [batch.first_row for batch in batches] == list(range(0, len(lists), rows_per_unit))
    assert sum(batch.num_rows for batch in batches) == len(lists)
    got = [
        (row, index, text, kept)
        for batch in batches
        for row, index, text, kept in zip(
            batch.rows.tolist(),
            batch.caption_indices.tolist(),
            batch.texts,
            batch.kept["id"].to_pylist(),
            strict=True,
        )
    ]
    assert got == [
        (row, index, text, f"id {row}") for row, texts in enumerate(lists) for index, text in enumerate(texts or [None])
    ]


def numbered(count: int) -> pa.Table:
    return pa.table({"caption": [f"caption {i}" for i in range(count)], "number": list(range(count))})


@pytest.mark.parametrize("row_group_size", [1, 7, 10, 33, 100])
@pytest.mark.parametrize(("first_row", "num_rows"), [(0, 100), (0, 45), (20, 30), (95, 5), (13, 50)])
def test_a_span_is_cut_into_units_of_equal_rows(
    tmp_path: Path, row_group_size: int, first_row: int, num_rows: int
) -> None:
    file = write(tmp_path / "a", numbered(100), row_group_size=row_group_size)
    span = Span(file=file, digest=whole(LOCAL, file).digest, first_row=first_row, num_rows=num_rows)
    batches = read(span, rows_per_unit=10)
    assert [batch.first_row for batch in batches] == list(range(first_row, first_row + num_rows, 10))
    assert all(batch.num_rows == 10 for batch in batches[:-1])
    assert np.concatenate([batch.rows for batch in batches]).tolist() == list(range(first_row, first_row + num_rows))
    for batch in batches:
        assert batch.texts == [f"caption {row}" for row in batch.rows]
        assert batch.kept["number"].to_pylist() == batch.rows.tolist()


def test_units_larger_than_what_is_decoded_at_a_time_are_whole(tmp_path: Path) -> None:
    file = write(tmp_path / "a", numbered(10_000), row_group_size=6_000)
    batches = read(whole(LOCAL, file), rows_per_unit=7_000)
    assert [batch.num_rows for batch in batches] == [7_000, 3_000]
    assert [row for batch in batches for row in batch.kept["number"].to_pylist()] == list(range(10_000))


def test_captions_are_read_through_fsspec() -> None:
    filesystem = fsspec.filesystem("memory")
    with filesystem.open("/captions of fsspec/a.parquet", "wb") as file:
        pq.write_table(numbered(25), file, row_group_size=10)
    inputs = open_inputs(["memory://captions of fsspec"])
    (source,) = inputs.files()
    batches = read(whole(inputs.filesystem, source), filesystem=inputs.filesystem)
    filesystem.rm("/captions of fsspec", recursive=True)
    assert [text for batch in batches for text in batch.texts] == [f"caption {i}" for i in range(25)]


def test_one_row_is_a_span_of_its_own(tmp_path: Path) -> None:
    (batch,) = read(whole(LOCAL, write(tmp_path / "a", numbered(1))))
    assert (batch.first_row, batch.num_rows, batch.texts) == (0, 1, ["caption 0"])


def test_skipped_units_are_passed_over_and_their_row_groups_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = whole(LOCAL, write(tmp_path / "a", numbered(100), row_group_size=20))
    groups: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches

    def watch(parquet: Any, *, row_groups: list[int], **options: Any) -> Any:
        groups.extend(row_groups)
        return iter_batches(parquet, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watch)
    done = {*range(0, 100, 10)} - {10, 70, 80}
    batches = read(span, skip=done.__contains__)
    assert [batch.first_row for batch in batches] == [10, 70, 80]
    assert all(batch.texts == [f"caption {row}" for row in batch.rows] for batch in batches)
    assert groups == [0, 3, 4]
    assert read(span, skip=lambda row: True) == []
    assert groups == [0, 3, 4]


def test_only_needed_columns_and_rows_are_read(tmp_path: Path) -> None:
    rows = 80_000
    random = np.random.default_rng(0)
    texts = [random.bytes(50).hex() for _ in range(rows)]
    table = pa.table({"caption": texts, "image": [random.bytes(100) for _ in range(rows)], "other": texts})
    path = tmp_path / "a"
    file = write(path, table, row_group_size=rows // 2, use_dictionary=False, compression=None)
    chunks = pq.read_metadata(path).row_group(0)
    text_bytes = chunks.column(0).total_compressed_size
    filesystem = OneFile(path.read_bytes())
    digest = whole(filesystem, file).digest

    def count(first_row: int, num_rows: int) -> int:
        span = Span(file=file, digest=digest, first_row=first_row, num_rows=num_rows)
        schema = pa.schema({"caption": pa.string()})
        (batch,) = read(span, schema=schema, rows_per_unit=rows, filesystem=filesystem)
        assert batch.texts == texts[first_row : first_row + num_rows]
        return filesystem.opened.bytes_read

    assert text_bytes < count(40_000, 40_000) < 1.1 * text_bytes + 2**16
    assert count(0, 1_000) < 0.6 * text_bytes


def test_a_file_replaced_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    span = whole(LOCAL, write(tmp_path / "a.parquet", numbered(20), compression=None, use_dictionary=False))
    other = numbered(20).set_column(1, "number", pa.array(range(1, 21)))
    file = write(tmp_path / "a.parquet", other, compression=None, use_dictionary=False)
    assert file.size == span.file.size
    with pytest.raises(SourceError, match=r"a\.parquet: changed during the run"):
        read(span, schema=pa.schema([]))


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", numbered(1000), row_group_size=500)
    span = whole(LOCAL, file)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    middle = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(0).data_page_offset
    data[middle - 200 : middle + 200] = b"\xee" * 400
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.parquet: row group 1: expected readable pages, got"):
        read(span)


def test_a_row_group_that_ends_early_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    span = whole(LOCAL, write(tmp_path / "a.parquet", numbered(20)))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: iter([]))
    with pytest.raises(SourceError, match=r"row group 0: expected rows up to 20, got 0"):
        read(span)


def test_nothing_kept_is_a_table_without_columns(tmp_path: Path) -> None:
    (batch,) = read(whole(LOCAL, write(tmp_path / "a", numbered(5))), schema=pa.schema([]))
    assert batch.kept.schema == pa.schema([])
    assert len(batch.texts) == 5
