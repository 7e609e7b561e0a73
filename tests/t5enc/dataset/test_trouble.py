"""Files that change, end early or contradict themselves are errors by name, and never wrong numbers."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from t5enc import EmbeddingDataset
from t5enc.errors import OutputError
from t5enc.shards import process
from t5enc.storage import METADATA_KEY, PREFIX
from tests.t5enc.dataset.outputs import Shard, write_output

SHARDS = [Shard(lengths=[3, 1, 9, 2, 8]), Shard(lengths=[4, None, 6], first_row=5)]


def keep_time(path: Path, data: bytes) -> None:
    """Other bytes in a file that nobody sees has changed."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """The first shard of an output in this folder."""
    return tmp_path / write_output(tmp_path, SHARDS, group_bytes=8 << 20)[0]


def test_a_shard_that_is_written_anew_meanwhile_is_an_error_by_name(tmp_path: Path, shard: Path) -> None:
    data = EmbeddingDataset(tmp_path)
    assert data[2].num_tokens == 9
    content = shard.read_bytes()
    shard.write_bytes(content + b"more")
    with pytest.raises(OutputError, match=f"{shard.name}: changed since it was opened"):
        data.__getitems__([2])


def test_a_shard_that_is_replaced_meanwhile_is_read_as_it_was_or_not_at_all(
    tmp_path: Path, shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "OPEN_FILES", 1)
    data = EmbeddingDataset(tmp_path)
    before = data[2].embedding
    other = tmp_path / "other"
    other.write_bytes(shard.read_bytes())
    other.rename(shard)
    assert torch.equal(data[2].embedding, before)
    assert data[5].num_tokens == 4, "which closes the other shard"
    with pytest.raises(OutputError, match=f"{shard.name}: changed since it was opened"):
        data[2]


@pytest.mark.parametrize("size", [0, 3, 200, -1])
def test_a_torn_shard_is_an_error_by_name(tmp_path: Path, shard: Path, size: int) -> None:
    shard.write_bytes(shard.read_bytes()[:size])
    with pytest.raises(OutputError, match=f"{shard.name}: expected a Parquet shard"):
        EmbeddingDataset(tmp_path)[0]
    with pytest.raises(OutputError, match=f"{shard.name}: expected a Parquet shard"):
        EmbeddingDataset(tmp_path, columns=["id"])


@pytest.mark.parametrize("content", [b"{", b"\xff", b"{}"])
def test_a_shard_whose_metadata_is_damaged_is_an_error_by_name_or_read(shard: Path, content: bytes) -> None:
    folder = shard.parents[2]
    expected = EmbeddingDataset(folder)[0]
    table = pq.read_table(shard)
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: content}), shard)
    if content == b"{}":
        assert torch.equal(EmbeddingDataset(folder)[0].embedding, expected.embedding)
    else:
        with pytest.raises(OutputError, match=f"{shard.name}: expected a Parquet shard, got"):
            EmbeddingDataset(folder)[0]


def test_a_shard_as_an_output_is_an_error_by_name(shard: Path) -> None:
    with pytest.raises(OutputError, match="expected the output of a t5enc job"):
        EmbeddingDataset(shard)


def test_a_shard_that_is_gone_is_an_error_by_name(tmp_path: Path, shard: Path) -> None:
    shard.unlink()
    with pytest.raises(OutputError, match=f"{shard.name}: expected a shard that can be opened"):
        EmbeddingDataset(tmp_path)[0]


def test_a_shard_of_other_rows_than_were_noted_is_an_error_by_name(tmp_path: Path, shard: Path) -> None:
    pq.write_table(pq.read_table(shard).slice(1), shard)
    with pytest.raises(OutputError, match=f"{shard.name}: expected 5 rows of which 5 count .*got 4 of which 4"):
        EmbeddingDataset(tmp_path)[0]


def test_a_length_that_is_wrong_is_an_error_by_row(tmp_path: Path, shard: Path) -> None:
    """It is found before the bytes are taken for an embedding, though Parquet's own readers have no such check."""
    data = EmbeddingDataset(tmp_path)
    content, size = bytearray(shard.read_bytes()), 9 * 4 * 2
    place = content.index(size.to_bytes(4, "little"), 4)
    content[place : place + 4] = (size - 8).to_bytes(4, "little")
    keep_time(shard, bytes(content))
    with pytest.raises(OutputError, match=rf"{shard.name}: row"):
        data[2]


@pytest.mark.parametrize("tokens", [8, 10])
def test_a_number_of_tokens_that_is_not_that_of_the_bytes_is_an_error_by_row(
    tmp_path: Path, shard: Path, tokens: int
) -> None:
    table = pq.read_table(shard)
    counts = pa.array([3, 1, tokens, 2, 8], pa.int32())
    name = f"{PREFIX}num_tokens"
    pq.write_table(table.set_column(table.column_names.index(name), table.schema.field(name), counts), shard)
    data = EmbeddingDataset(tmp_path)
    with pytest.raises(
        OutputError, match=rf"{shard.name}: row 2: expected an embedding of {8 * tokens} bytes .*got 72"
    ):
        data[2]
    assert data[3].num_tokens == 2


def test_an_embedding_that_is_missing_without_a_reason_is_an_error_by_row(tmp_path: Path, shard: Path) -> None:
    table = pq.read_table(shard)
    place = table.column_names.index(f"{PREFIX}bytes")
    values = table[f"{PREFIX}bytes"].to_pylist()
    values[2] = None
    column = pa.array(values, pa.large_binary())
    pq.write_table(table.set_column(place, table.schema.field(place), column), shard)
    with pytest.raises(OutputError, match=f"{shard.name}: row 2: expected an embedding of 72 bytes .*got none"):
        EmbeddingDataset(tmp_path)[2]


def test_damaged_pages_are_an_error_by_row_group(tmp_path: Path, shard: Path) -> None:
    table = pq.read_table(shard)
    pq.write_table(table, shard, compression="zstd")
    data = EmbeddingDataset(tmp_path)
    assert data.lengths([0]) == [3]
    group = pq.read_metadata(shard).row_group(0)
    chunks = [group.column(leaf) for leaf in range(group.num_columns)]
    (chunk,) = [chunk for chunk in chunks if chunk.path_in_schema == f"{PREFIX}bytes"]
    content = bytearray(shard.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    keep_time(shard, bytes(content))
    with pytest.raises(OutputError, match=f"{shard.name}: row group 0: expected readable pages"):
        data[0]


@pytest.mark.parametrize("storage", ["bf16z", "fp16z"])
def test_a_damaged_value_of_a_lossless_codec_is_an_error_by_row(tmp_path: Path, storage: str) -> None:
    shard = tmp_path / write_output(tmp_path, SHARDS, storage=storage, group_bytes=8 << 20)[0]
    data = EmbeddingDataset(tmp_path)
    index = data._rows.index(0)
    content = bytearray(shard.read_bytes())
    content[int(index.find_starts(np.array([2]))[0]) + 4] ^= 1  # of its number of tokens
    keep_time(shard, bytes(content))
    with pytest.raises(OutputError, match=f"{shard.name}: row 2: expected the embedding of 9 tokens, got one of 8"):
        data[2]


def test_many_threads_read_the_same_whatever_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one file, index, row group and table of columns, which leave while others use them."""
    names = [name for name in vars(process) if name in ("OPEN_FILES", "INDEX_BYTES", "GROUP_BYTES", "COLUMN_BYTES")]
    assert len(names) == 4
    for name in names:
        monkeypatch.setattr(process, name, 1)
    shards = [Shard(lengths=[3, 1, None, 2], source=f"{place}.parquet") for place in range(6)]
    written = write_output(tmp_path, shards, group_bytes=30)
    pq.write_table(pq.read_table(tmp_path / written[2]), tmp_path / written[2], compression="zstd")
    data = EmbeddingDataset(tmp_path, columns=["id"], threads=2)
    expected = [(sample.embedding, sample.columns["id"]) for sample in data]
    barrier = threading.Barrier(6)

    def read(seed: int) -> None:
        chance = np.random.default_rng(seed)
        barrier.wait()
        for _ in range(30):
            indices = chance.integers(0, len(data), 5).tolist()
            batch = data.__getitems__(indices)
            for place, index in enumerate(indices):
                length = int(batch.lengths[place])
                assert torch.equal(batch.embeddings[place, :length], expected[index][0])
                assert batch.columns["id"][place] == expected[index][1]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(read, range(6)))
