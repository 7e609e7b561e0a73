"""Embeddings to Parquet columns and back, and what a row says of them."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5enc.embeddings import Embeddings
from t5enc.errors import OutputError
from t5enc.storage import (
    PREFIX,
    SCHEMA,
    column_format,
    read_column,
)
from tests.t5enc.storage.exactness import assert_reads, every_dtype, plain_dtype
from tests.t5enc.written import DIM, FAILED, make_embeddings, make_table

BYTES = f"{PREFIX}bytes"
lengths = st.lists(st.integers(1, 4), max_size=6)


def through_parquet(table: pa.Table, *, row_group_size: int | None = None) -> pa.Table:
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=row_group_size)
    return pq.read_table(pa.BufferReader(stream.getvalue()))


@every_dtype
@given(lengths=lengths, groups=st.integers(1, 3))
def test_embeddings_come_back_from_parquet(storage: str, lengths: list[int], groups: int) -> None:
    embeddings = make_embeddings(lengths, storage=storage)
    table = make_table(["a"] * len(lengths), embeddings, storage=storage)
    assert_reads(read_column(table[BYTES], storage, DIM), embeddings, storage)
    assert_reads(read_column(through_parquet(table, row_group_size=groups)[BYTES], storage, DIM), embeddings, storage)


@every_dtype
@given(lengths=lengths.filter(bool), data=st.data())
def test_rows_without_embedding_have_no_tokens(storage: str, lengths: list[int], data: st.DataObject) -> None:
    failed = data.draw(st.sets(st.integers(0, len(lengths) - 1)))
    embeddings = make_embeddings(lengths, storage=storage)
    table = make_table(["a"] * len(lengths), embeddings, storage=storage, failed=sorted(failed))
    kept = [
        embeddings[index].clone() if index not in failed else embeddings.values[:0] for index in range(len(lengths))
    ]
    expected = Embeddings.from_lengths(torch.cat(kept), [len(text) for text in kept])
    for found in (table, through_parquet(table)):
        assert_reads(read_column(found[BYTES], storage, DIM), expected, storage)


@every_dtype
@given(lengths=lengths, data=st.data())
def test_slices_and_chunks_of_a_column_hold_their_own_texts(
    storage: str, lengths: list[int], data: st.DataObject
) -> None:
    embeddings = make_embeddings(lengths, storage=storage)
    column = make_table(["a"] * len(lengths), embeddings, storage=storage)[BYTES]
    start = data.draw(st.integers(0, len(lengths)))
    stop = data.draw(st.integers(start, len(lengths)))
    assert_reads(read_column(column.slice(start, stop - start), storage, DIM), embeddings[start:stop], storage)
    chunks = pa.chunked_array([*column.slice(0, start).chunks, *column.slice(start).chunks], type=pa.large_binary())
    assert_reads(read_column(chunks, storage, DIM), embeddings, storage)


@plain_dtype
def test_nothing_is_copied_between_memory_and_column(storage: str) -> None:
    embeddings = make_embeddings([2, 3], storage=storage)
    table = make_table(["a", "b"], embeddings, storage=storage)
    found = read_column(table[BYTES], storage, DIM)
    assert found.values.data_ptr() == embeddings.values.data_ptr()
    second = read_column(table[BYTES].slice(1), storage, DIM)
    assert second.values.data_ptr() == embeddings[1].data_ptr()


def test_memory_that_may_not_be_written_is_read_all_the_same() -> None:
    column = pa.chunked_array([pa.array([b"\0" * 16, None, b"\1" * 32], pa.large_binary())])
    assert read_column(column, "float32", DIM).lengths.tolist() == [1, 0, 2]
    stream = pa.BufferOutputStream()
    table = make_table(["a"], make_embeddings([2]))
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    read = pa.ipc.open_file(stream.getvalue()).read_all()
    assert_reads(read_column(read[BYTES], "float32", DIM), make_embeddings([2]), "float32")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.chunked_array([], pa.large_binary()), []),
        (pa.chunked_array([pa.array([b""], pa.large_binary())]), [0]),
        (pa.chunked_array([pa.array([None, None], pa.large_binary())]), [0, 0]),
        (pa.chunked_array([pa.array([b"a" * 32, b"b" * 16], pa.binary())]), [2, 1]),
    ],
    ids=["no rows", "no bytes", "only nulls", "plain binary"],
)
def test_columns_at_the_edge_are_read(column: pa.ChunkedArray, expected: list[int]) -> None:
    embeddings = read_column(column, "float32", DIM)
    assert embeddings.lengths.tolist() == expected
    assert embeddings.values.shape == (sum(expected), DIM)


def test_bytes_that_are_no_whole_tokens_are_refused() -> None:
    column = pa.chunked_array([pa.array([b"a" * 16, b"a" * 15], pa.large_binary())])
    with pytest.raises(OutputError, match=r"expected multiples of 16 bytes \(float32, 4 wide\), got others"):
        read_column(column, "float32", DIM)


def test_every_row_says_where_it_comes_from_and_what_it_holds() -> None:
    table = make_table(["x", "y", "z"], make_embeddings([2, 3, 1]), failed=[1])
    assert table.schema.names == ["caption", *SCHEMA.names]
    assert table.column("caption").to_pylist() == ["x", "y", "z"]
    columns = table.select([PREFIX + name for name in ("row", "shape", "num_tokens", "dtype", "error")]).to_pydict()
    assert list(columns.values()) == [
        [0, 1, 2],
        [[2, DIM], None, [1, DIM]],
        [2, 0, 1],
        ["float32"] * 3,
        [None, FAILED, None],
    ]
    assert table[BYTES].null_count == 1


def test_bytes_are_what_numpy_reads_by_shape_and_dtype() -> None:
    embeddings = make_embeddings([2, 3])
    row = through_parquet(make_table(["a", "b"], embeddings)).to_pylist()[1]
    array = np.frombuffer(row[BYTES], row[f"{PREFIX}dtype"]).reshape(row[f"{PREFIX}shape"])
    assert np.array_equal(array, embeddings[1].numpy())


def test_a_file_says_how_its_bytes_are_to_be_read() -> None:
    table = through_parquet(make_table(["a"], make_embeddings([1])))
    assert column_format(table.schema) == {"storage_dtype": "float32", "dim": DIM}
    with pytest.raises(OutputError, match="was not written by t5enc"):
        column_format(pa.schema([]))
