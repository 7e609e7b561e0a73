"""Reading spans: every caption once and in order, no more of a file than is needed, and files that differ by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inputs.sources import SourceFile, open_inputs
from pipelines.plan.units import Span
from t5enc.errors import SourceError
from tests.pipelines.actors.caption_files import LOCAL, list_kept, read, whole, write


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
            list_kept(batch)["id"].to_pylist(),
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
    span = Span(file=file, digest=whole(LOCAL, file).digest, first_row=first_row, num_rows=num_rows, rows_per_unit=10)
    batches = read(span)
    assert [batch.first_row for batch in batches] == list(range(first_row, first_row + num_rows, 10))
    assert all(batch.num_rows == 10 for batch in batches[:-1])
    assert np.concatenate([batch.rows for batch in batches]).tolist() == list(range(first_row, first_row + num_rows))
    for batch in batches:
        assert batch.texts == [f"caption {row}" for row in batch.rows]
        assert list_kept(batch)["number"].to_pylist() == batch.rows.tolist()


def test_units_larger_than_what_is_decoded_at_a_time_are_whole(tmp_path: Path) -> None:
    file = write(tmp_path / "a", numbered(10_000), row_group_size=6_000)
    batches = read(whole(LOCAL, file), rows_per_unit=7_000)
    assert [batch.num_rows for batch in batches] == [7_000, 3_000]
    assert [row for batch in batches for row in list_kept(batch)["number"].to_pylist()] == list(range(10_000))


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
        span = Span(file=file, digest=digest, first_row=first_row, num_rows=num_rows, rows_per_unit=rows)
        schema = pa.schema({"caption": pa.string()})
        (batch,) = read(span, schema=schema, filesystem=filesystem)
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
    assert list_kept(batch).schema == pa.schema([])
    assert len(batch.texts) == 5


@pytest.mark.parametrize("most", [1, 3, 100])
def test_lists_of_more_text_than_arrow_holds_are_read_fewer_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """It raises somewhere in a row group, where such a batch begins."""
    span = whole(LOCAL, write(tmp_path / "a.parquet", numbered(200), row_group_size=100))
    iter_batches = pq.ParquetFile.iter_batches

    def overflow(parquet: Any, *, batch_size: int, **options: Any) -> Any:
        for batch in iter_batches(parquet, batch_size=batch_size, **options):
            if len(batch) > most and batch["number"][-1].as_py() % 100 >= 50:
                raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", overflow)
    batches = read(span, rows_per_unit=40)
    assert [text for batch in batches for text in batch.texts] == [f"caption {i}" for i in range(200)]
    assert [number for batch in batches for number in list_kept(batch)["number"].to_pylist()] == list(range(200))


def test_a_row_of_more_text_than_arrow_holds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    span = whole(LOCAL, write(tmp_path / "a.parquet", numbered(20)))

    def overflow(*_: Any, **__: Any) -> Any:
        raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", overflow)
    with pytest.raises(SourceError, match=r"^a\.parquet: row group 0, row 0: expected a list of less than 2 GB"):
        read(span)
