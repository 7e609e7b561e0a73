"""Shards as bytes: what is in them, how they are laid out, and the hash of their rows."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.commit.counts import Counts
from pipelines.commit.records import UnitRecord
from pipelines.commit.shard_file import ShardFile, cut_by_size, hash_content
from pipelines.job import FrozenJob
from t5enc.embeddings import Embeddings
from t5enc.errors import OutputError
from t5enc.output import load_embeddings
from t5enc.storage import METADATA_KEY, SCHEMA, CaptionKeys, build_table
from t5enc.storage.layout import RECORD_KEY
from tests.pipelines.small_jobs import DIM, make_job

ROWS = 50


def build(
    rows: int = ROWS,
    *,
    kept: pa.Table | None = None,
    errors: dict[int, str] | None = None,
    storage: str = "float16",
) -> pa.Table:
    lengths = torch.arange(1, rows + 1)
    values = torch.arange(int(lengths.sum()) * DIM, dtype=torch.float16).reshape(-1, DIM) / 64
    return build_table(
        pa.table({"id": np.arange(rows), "caption": [f"text {row}" for row in range(rows)]}) if kept is None else kept,
        CaptionKeys(source="a.parquet", rows=np.arange(rows), caption_indices=np.zeros(rows, np.int32)),
        Embeddings.from_lengths(values, lengths),
        storage=storage,
        truncated=np.zeros(rows, bool),
        errors=[(errors or {}).get(row) for row in range(rows)],
    )


def describe(table: pa.Table, **changes: Any) -> UnitRecord:
    counts = Counts(input_rows=len(table), captions=len(table), encoded=len(table))
    return UnitRecord(
        name="a.parquet/0-1.parquet",
        source="a.parquet",
        first_row=0,
        content=hash_content(table),
        counts=replace(counts, **changes),
    )


def serialize(table: pa.Table, groups: int = 1, job: FrozenJob | None = None, **changes: Any) -> bytes:
    """A shard of so many row groups."""
    kept = pa.schema([field for field in table.schema if not field.name.startswith("text_embedding_")])
    file, rows = ShardFile(kept, job or make_job()), -(-len(table) // groups)
    for start in range(0, max(1, len(table)), max(1, rows)):
        file.write(table.slice(start, rows).columns)
    return bytes(file.finish(describe(table, **changes)))


def read(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def test_a_shard_holds_its_rows() -> None:
    table = build(errors={3: "null caption"})
    again = read(serialize(table))
    assert again.replace_schema_metadata(None) == table.replace_schema_metadata(None)
    assert again.schema.names[:2] == ["id", "caption"]


def test_a_shard_can_be_read_by_itself(tmp_path: Any) -> None:
    table = build(errors={3: "null caption"})
    (tmp_path / "shard.parquet").write_bytes(serialize(table))
    rows, embeddings = load_embeddings(tmp_path / "shard.parquet")
    assert rows["caption"].to_pylist() == [f"text {row}" for row in range(ROWS)]
    assert embeddings.lengths.tolist() == [0 if row == 3 else row + 1 for row in range(ROWS)]
    assert embeddings[1].tolist() == (torch.arange(DIM, 3 * DIM).reshape(2, DIM) / 64).tolist()


def test_the_footer_holds_the_record_and_the_job() -> None:
    table, job = build(), make_job(weights="abc")
    metadata = pq.read_metadata(pa.BufferReader(serialize(table, job=job))).metadata
    assert json.loads(metadata[RECORD_KEY]) == describe(table).to_row()
    form = json.loads(metadata[METADATA_KEY])
    assert (form["storage_dtype"], form["dim"], form["fingerprint"]) == ("float16", DIM, job.fingerprint)
    assert form["job"] == job.identity


@pytest.mark.parametrize("captions", [ROWS - 1, ROWS + 1])
def test_a_shard_with_another_number_of_rows_than_recorded_never_comes_to_be(captions: int) -> None:
    table = build()
    with pytest.raises(OutputError, match=f"a.parquet/0-1.parquet: expected {captions} rows in the shard, got {ROWS}"):
        serialize(table, captions=captions)


@given(sizes=st.lists(st.integers(0, 20), max_size=40), limit=st.integers(1, 50), most=st.none() | st.integers(1, 10))
def test_pieces_are_as_large_as_they_may_be_and_no_larger(sizes: list[int], limit: int, most: int | None) -> None:
    pieces = list(cut_by_size(np.array(sizes, np.int64), limit, most))
    assert [place for piece in pieces for place in range(piece.start, piece.stop)] == list(range(len(sizes)))
    assert len(pieces) >= 1
    for piece in pieces:
        count, size = piece.stop - piece.start, sum(sizes[piece])
        assert count <= (most or len(sizes))
        assert size <= limit or count == 1
        assert piece.stop == len(sizes) or count == most or size + sizes[piece.stop] > limit


def test_a_temporary_file_holds_the_same_bytes() -> None:
    table = build()
    kept = table.select(["id", "caption"]).schema
    files = [ShardFile(kept, make_job(), in_memory=in_memory) for in_memory in (True, False)]
    for file in files:
        file.write(table.columns)
    assert bytes(files[0].finish(describe(table))) == bytes(files[1].finish(describe(table))) == serialize(table)


class FullDisk:
    """A writer to a disk without room."""

    def write_table(self, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_temporary_folder_that_is_full_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    table = build()
    file = ShardFile(table.select(["id", "caption"]).schema, make_job())
    monkeypatch.setattr(file, "_writer", FullDisk())
    with pytest.raises(OutputError, match=r"first written there, and cannot be: .*No space left.*TMPDIR"):
        file.write(table.columns)


def test_an_empty_table_is_a_shard_too() -> None:
    assert len(read(serialize(build(0)))) == 0


def test_embeddings_are_stored_as_they_are_and_texts_compressed() -> None:
    group = pq.read_metadata(pa.BufferReader(serialize(build()))).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["text_embedding_bytes"].compression == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" not in columns["text_embedding_bytes"].encodings
    assert columns["text_embedding_bytes"].statistics is None
    assert columns["caption"].compression == "ZSTD"
    assert columns["id"].statistics.max == ROWS - 1


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1, 2], None, []]),
        pa.array([{"a": 1, "b": "x"}] * 3),
        pa.array([None] * 3, pa.null()),
        pa.array([b"x", None, b""]),
        pa.array([1.5, None, 2.5]),
        pa.array(["x", "y", "x"]).dictionary_encode(),
        pa.array([[["a"], []]] * 3),
    ],
    ids=lambda column: str(column.type).partition("<")[0],
)
def test_kept_columns_of_any_type_come_back(column: pa.Array) -> None:
    table = build(3, kept=pa.table({"a.b": column, "ü": [1, 2, 3]}))
    assert read(serialize(table)).select(["a.b", "ü"]).to_pylist() == table.select(["a.b", "ü"]).to_pylist()


def test_the_hash_is_of_rows_and_not_of_chunks() -> None:
    table = build(errors={2: "null caption"})
    pieces = pa.concat_tables([table.slice(0, 2), table.slice(2, 1), table.slice(3)])
    assert hash_content(pieces) == hash_content(table)


def test_the_hash_of_a_shard_of_several_row_groups_is_that_of_its_rows() -> None:
    table = build()
    data = serialize(table, groups=7)
    assert pq.read_metadata(pa.BufferReader(data)).num_row_groups > 1
    assert hash_content(read(data)) == hash_content(table)


@pytest.mark.parametrize("name", SCHEMA.names)
def test_the_hash_changes_with_every_column_of_the_embedding(name: str) -> None:
    table = build(4)
    reverse = table[name].take([3, 2, 1, 0])
    others = {
        "text_embedding_source": pa.array(["b.parquet"] * 4),
        "text_embedding_caption_index": pa.array([0, 1, 0, 0], pa.int32()),
        "text_embedding_dtype": pa.array(["int8"] * 4),
        "text_embedding_truncated": pa.array([False, True, False, False]),
        "text_embedding_error": pa.array([None, "null caption", None, None]),
    }
    changed = table.set_column(table.column_names.index(name), name, others.get(name, reverse))
    assert hash_content(changed) != hash_content(table)


def test_the_hash_changes_with_the_sizes_of_values_too() -> None:
    table = build(4, storage="fp16z")
    name = "text_embedding_num_bytes"
    changed = table.set_column(table.column_names.index(name), name, table[name].take([3, 2, 1, 0]))
    assert hash_content(changed) != hash_content(table)
    assert hash_content(read(serialize(table, groups=3, job=make_job(storage_dtype="fp16z")))) == hash_content(table)


def test_the_hash_does_not_cover_what_is_kept_of_the_input() -> None:
    assert hash_content(build(4, kept=pa.table({"id": [7, 8, 9, 10]}))) == hash_content(build(4))
