"""Rows are found by their key, by a value and by their caption, and those that belong together are found together."""

from __future__ import annotations

import itertools
import math
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5enc import EmbeddingDataset
from t5enc.errors import InputError, OutputError, UnknownRowError
from tests.t5enc.dataset.outputs import Shard, write_output

SHARDS = [
    Shard(lengths=[3, None, 2], first_row=0),
    Shard(lengths=[2, 2, 7], first_row=3),
    Shard(lengths=[1, 5, 6, None, 2, 9], source="c/d.parquet", rows=[4, 4, 5, 7, 7, 7]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_output(tmp_path, SHARDS)
    return tmp_path


@pytest.mark.parametrize("missing", ["skip", "zeros"])
def test_every_row_is_found_by_its_key(folder: Path, missing: str) -> None:
    data = EmbeddingDataset(folder, missing=missing)
    assert [data.find(*data[place].key) for place in range(len(data))] == list(range(len(data)))


def test_keys_of_an_output_that_is_not_finished_are_found_too(tmp_path: Path) -> None:
    write_output(tmp_path, SHARDS, is_finished=False)
    data = EmbeddingDataset(tmp_path, partial=True)
    assert [data.find(*data[place].key) for place in range(len(data))] == list(range(len(data)))


@pytest.mark.parametrize("key", [("a.parquet", 1), ("a.parquet", 6), ("b.parquet", 0), ("c/d.parquet", 4, 2), ("", -1)])
def test_a_key_that_is_not_there_is_an_error_by_name(folder: Path, key: tuple[str, int]) -> None:
    data = EmbeddingDataset(folder)
    with pytest.raises(UnknownRowError, match=f"expected a row with caption . of row {key[1]} of '{key[0]}', got none"):
        data.find(*key)
    with pytest.raises(KeyError):
        data.find(*key)


def test_rows_are_found_by_a_value_that_only_they_have(folder: Path) -> None:
    data = EmbeddingDataset(folder)
    for copy in (data, pickle.loads(pickle.dumps(data))):
        assert copy.find_by("id", 2001) == 6
        assert copy[copy.find_by("id", 2004)].key == ("c/d.parquet", 7, 1)
    with pytest.raises(UnknownRowError, match="expected a row with id = 2003, got none"):
        data.find_by("id", 2003)
    with pytest.raises(OutputError, match=r"expected one row with text_embedding_row = 4, got 3: rows 3, 5, 6"):
        data.find_by("text_embedding_row", 4)


def test_every_value_is_found_whatever_its_type(folder: Path) -> None:
    data = EmbeddingDataset(folder)
    for name in ("id", "caption", "picture"):
        values = data.read_column(name).to_pylist()
        for place, value in enumerate(values):
            if values.count(value) == 1:
                assert data.find_by(name, value) == place


def test_two_values_of_one_hash_are_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5enc.dataset.lookup.MASK", 1)
    data = EmbeddingDataset(folder)
    assert data.find_by("caption", "caption 5 of a.parquet") == 4


def test_values_that_are_lists_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="tags: expected single values"):
        EmbeddingDataset(folder).find_by("tags", ["x"])
    with pytest.raises(InputError, match="groups: expected a column of single values, got list"):
        EmbeddingDataset(folder).groups("tags")


def test_all_rows_of_a_caption_are_found(folder: Path) -> None:
    data = EmbeddingDataset(folder)
    assert data.find_caption("caption 4 of c/d.parquet").tolist() == [5, 6]
    assert data.find_caption("caption 3 of a.parquet").tolist() == [2]
    with pytest.raises(UnknownRowError, match=r"a row of the caption 'caption 1 of a\.parquet', got none"):
        data.find_caption("caption 1 of a.parquet")


def test_captions_of_one_row_of_the_input_belong_together(folder: Path) -> None:
    data = EmbeddingDataset(folder)
    groups = data.groups("row")
    assert groups.rows.tolist() == list(range(len(data)))
    assert groups.offsets.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 10]


def test_rows_of_one_value_belong_together(folder: Path) -> None:
    data = EmbeddingDataset(folder)
    groups = data.groups("caption")
    values = data.read_column("caption").to_pylist()
    members = [
        groups.rows[first:last].tolist() for first, last in zip(groups.offsets, groups.offsets[1:], strict=False)
    ]
    assert sorted(row for rows in members for row in rows) == list(range(len(data)))
    assert [[values[row] for row in rows] for rows in members] == [
        [value] * values.count(value) for value in dict.fromkeys(values)
    ]


def test_rows_without_a_number_do_not_belong_together(tmp_path: Path) -> None:
    shard = tmp_path / write_output(tmp_path, [Shard(lengths=[1] * 6)])[0]
    numbers = pa.array([2.0, math.nan, 2.0, math.nan, None, None])
    pq.write_table(pq.read_table(shard).append_column("number", numbers), shard)
    groups = EmbeddingDataset(tmp_path).groups("number")
    members = [groups.rows[first:last].tolist() for first, last in itertools.pairwise(groups.offsets)]
    assert sorted(members) == [[0, 2], [1], [3], [4], [5]]


def test_the_same_key_in_two_outputs_is_an_error_by_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_output(tmp_path / name, SHARDS)
    data = EmbeddingDataset([tmp_path / "one", tmp_path / "two"])
    with pytest.raises(OutputError, match="got 2: rows 0, 10"):
        data.find("a.parquet", 0)
