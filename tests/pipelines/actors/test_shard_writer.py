"""Shards written piece by piece: the same rows, found by arithmetic, and never more than a piece of them in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.actors import shard_writer
from pipelines.actors.captions import CaptionBatch
from pipelines.actors.kept import Kept
from pipelines.actors.shard_writer import ShardWriter
from pipelines.actors.shards import PreparedUnit
from pipelines.commit.records import UnitRecord
from pipelines.commit.shard_file import ShardFile
from pipelines.plan.units import Unit
from t5enc.embeddings import Embeddings
from t5enc.storage import STORAGE_DTYPES, token_bytes, working_dtype
from t5enc.text.prompts import Prompt
from t5enc.text_encoder import EncodedTexts
from tests.pipelines.small_jobs import DIM, make_job

MEGABYTE = 1 << 20


def prepare(counts: Sequence[int], lengths: Sequence[int], pages: Sequence[str | None]) -> PreparedUnit:
    """Rows of so many captions beside a page each; a caption of no tokens has no text."""
    captions = sum(counts)
    texts = [f"caption {index}" if length else None for index, length in enumerate(lengths)]
    schema = pa.schema([("page", pa.string()), ("caption", pa.string())])
    return PreparedUnit(
        unit=Unit(source="a.parquet", first_row=100, num_rows=len(counts), id="0" * 16),
        batch=CaptionBatch(
            first_row=100,
            num_rows=len(counts),
            columns=Kept(
                schema=schema,
                captions=pa.table({"caption": pa.array(texts, pa.string())}),
                beside=pa.table({"page": pages}),
            ),
            rows=100 + np.repeat(np.arange(len(counts)), counts),
            caption_indices=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
            texts=texts,
            reasons=[None] * captions,
        ),
        prompts=[Prompt.of(np.ones(length, np.int32)) if length else None for length in lengths],
        truncated=np.zeros(captions, bool),
        lengths=np.array(lengths, np.int64),
        errors=[None if length else "null caption" for length in lengths],
    )


def encode(lengths: Sequence[int], piece: slice, storage: str, dim: int = DIM) -> EncodedTexts:
    """Each number of a caption's embedding says which caption it is of."""
    asked = range(len(lengths))[piece]
    values = [torch.full((lengths[index], dim), index % 100, dtype=working_dtype(storage)) for index in asked]
    empty = torch.empty(0, dim, dtype=working_dtype(storage))
    return EncodedTexts(Embeddings.from_lengths(torch.cat([empty, *values]), [lengths[index] for index in asked]))


def write(prepared: PreparedUnit, storage: str = "float16", dim: int = DIM) -> tuple[UnitRecord, bytes]:
    writer = ShardWriter(prepared, make_job(storage_dtype=storage, dim=dim), prepared.rows)
    for piece in writer.pieces:
        writer.add(piece, encode(prepared.rows, piece, storage, dim))
    record, data = writer.finish()
    return record, bytes(data)


def read(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def find_bytes(data: bytes, size: int | None) -> list[bytes | None]:
    """Each row's embedding, found by the footer and small columns alone; a token is of `size` bytes, if all are."""
    file = pq.ParquetFile(pa.BufferReader(data))
    found: list[bytes | None] = []
    counted = "num_bytes" if size is None else "num_tokens"
    (leaf,) = [i for i in range(len(file.schema)) if file.schema.column(i).path == "text_embedding_bytes"]
    for index in range(file.num_row_groups):
        rows = file.read_row_group(index, columns=[f"text_embedding_{counted}", "text_embedding_error"])
        lengths = [
            None if error is not None else number * (size or 1)
            for number, error in zip(rows[0].to_pylist(), rows[1].to_pylist(), strict=True)
        ]
        chunk = file.metadata.row_group(index).column(leaf)
        place = chunk.data_page_offset + chunk.total_compressed_size
        place -= sum(4 + length for length in lengths if length is not None)
        for length in lengths:
            if length is None:
                found.append(None)
                continue
            assert int.from_bytes(data[place : place + 4], "little") == length
            found.append(data[place + 4 : place + 4 + length])
            place += 4 + length
    return found


COUNTS = st.lists(st.integers(1, 5), min_size=1, max_size=12)


@given(
    counts=COUNTS,
    group=st.sampled_from([1, 300, 1000, 8 << 20]),
    storage=st.sampled_from(STORAGE_DTYPES),
    data=st.data(),
)
def test_a_rows_bytes_are_found_from_the_footer(
    counts: list[int], group: int, storage: str, data: st.DataObject
) -> None:
    lengths = [data.draw(st.sampled_from([0, 1, 2, 7, 60])) for _ in range(sum(counts))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "ROW_GROUP_BYTES", group)
        _, shard = write(prepare(counts, lengths, ["page"] * len(counts)), storage)
    assert find_bytes(shard, token_bytes(storage, DIM)) == read(shard)["text_embedding_bytes"].to_pylist()


@pytest.mark.parametrize("length", [0, 1])
def test_very_many_small_rows_are_found_too(length: int) -> None:
    """More than Arrow writes in one page unless it is asked to, or in one row group."""
    count = 20_500
    _, shard = write(prepare([count], [length] * count, ["page"]))
    assert find_bytes(shard, token_bytes("float16", DIM)) == read(shard)["text_embedding_bytes"].to_pylist()


def test_row_groups_are_of_eight_megabytes_or_one_row() -> None:
    dim, lengths = 512, [1000, 100, 9000, 5000, 4000, 4000, 1]
    _, shard = write(prepare([7], lengths, ["page"]), dim=dim)
    metadata = pq.read_metadata(pa.BufferReader(shard))
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [2, 1, 1, 3]
    assert find_bytes(shard, 2 * dim) == read(shard)["text_embedding_bytes"].to_pylist()


@given(counts=COUNTS, piece=st.integers(1, 400), data=st.data())
def test_pieces_make_the_shard_that_one_makes(counts: list[int], piece: int, data: st.DataObject) -> None:
    lengths = [data.draw(st.sampled_from([0, 1, 2, 7, 60])) for _ in range(sum(counts))]
    prepared = prepare(counts, lengths, [None if row % 3 == 2 else "p" * row for row in range(len(counts))])
    record, whole = write(prepared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "PIECE_BYTES", piece)
        again, shard = write(prepared)
    assert again == record
    assert read(shard).equals(read(whole))
    table, pages = read(whole), prepared.batch.columns.beside["page"].to_pylist()
    assert table["page"].to_pylist() == [page for page, count in zip(pages, counts, strict=True) for _ in range(count)]
    assert table["caption"].to_pylist() == prepared.batch.texts
    assert table["text_embedding_num_tokens"].to_pylist() == lengths


@contextmanager
def measuring() -> Iterator[list[int]]:
    """The most bytes that Python, and Arrow while it wrote row groups, took meanwhile, once it is over."""
    most: list[int] = []
    before, taken, write = pa.total_allocated_bytes(), [0], ShardFile.write

    def watch(file: ShardFile, columns: Sequence[Any]) -> None:
        write(file, columns)
        taken.append(pa.total_allocated_bytes() - before)

    tracemalloc.start()
    try:
        with mock.patch.object(ShardFile, "write", watch):
            yield most
    finally:
        most.append(tracemalloc.get_traced_memory()[1] + max(taken))
        tracemalloc.stop()


def test_what_is_kept_beside_many_captions_is_repeated_a_row_group_at_a_time() -> None:
    """A page of a megabyte beside two hundred captions is two hundred megabytes of rows."""
    prepared = prepare([200], [1] * 200, ["p" * MEGABYTE])
    with measuring() as most:
        _, shard = write(prepared)
    assert pq.read_metadata(pa.BufferReader(shard)).num_row_groups > 20
    assert most[0] < 64 * MEGABYTE


def test_a_shard_is_held_once_beside_its_embeddings() -> None:
    dim, lengths = 512, [1000] * 64
    prepared = prepare([64], lengths, ["page"])
    encoded = encode(lengths, slice(None), "float16", dim)
    with measuring() as most:
        writer = ShardWriter(prepared, make_job(dim=dim), lengths)
        writer.add(slice(0, 64), encoded)
        _, data = writer.finish()
    assert len(data) > 62 * MEGABYTE
    assert most[0] < 1.25 * len(data) + 24 * MEGABYTE


def test_of_a_unit_of_many_pieces_none_is_held_but_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "PIECE_BYTES", 4 * MEGABYTE)
    dim, lengths = 512, [1000] * 128
    prepared = prepare([128], lengths, ["page"])
    with measuring() as most:
        writer = ShardWriter(prepared, make_job(dim=dim), lengths)
        for piece in writer.pieces:
            writer.add(piece, encode(lengths, piece, "float16", dim))
        _, data = writer.finish()
    assert (len(writer.pieces), len(data) > 124 * MEGABYTE) == (32, True)
    assert most[0] < 32 * MEGABYTE


KEPT_VALUES = [
    (pa.array(["a", None, "bbb"]), [1, 0, 3]),
    (pa.array([["a", "bb"], None, [], ["ccc"]]).slice(1), [0, 0, 3]),
    (pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())).slice(1), [0, 0]),
    (pa.array([{"a": "xx", "b": 1}, {"a": "yyyy", "b": 2}]).slice(1), [12]),
    (pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)), [16, 16]),
    (pa.array([None, None], pa.null()), [0, 0]),
    (pa.array([], pa.list_(pa.string())), []),
]


@pytest.mark.parametrize(("values", "sizes"), KEPT_VALUES, ids=lambda case: str(getattr(case, "type", "")))
def test_bytes_of_kept_values_are_counted_wherever_they_stand(values: pa.Array, sizes: list[int]) -> None:
    kept = Kept(schema=pa.schema({"x": values.type}), captions=pa.table({}), beside=pa.table({"x": values}))
    got = kept.sizes(np.arange(len(values)))
    assert np.abs(got - sizes).max(initial=0) <= 1, "whether a value is null may count, too"
