"""Rows by number are what load_embeddings reads one after the other, whatever the shards and whoever wrote them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5enc import EmbeddingDataset, load_embeddings
from t5enc.dataset.draws import Draw
from t5enc.errors import ConfigError, InputError, OutputError, UnfinishedError
from t5enc.storage import STORAGE_DTYPES
from tests.t5enc.dataset.outputs import OTHERS, Shard, rewrite, write_output

SHARDS = [
    Shard(lengths=[3, 1, None, 40, 0], first_row=0),
    Shard(lengths=[2, 2, 7], first_row=5),
    Shard(lengths=[None, None], source="b.parquet"),
    Shard(lengths=[1, 5, 6, 2, None, 9, 4], source="c/d.parquet", rows=[0, 0, 1, 2, 2, 2, 5]),
]
EMBEDDED = 13
KEPT = ["id", "tags", "place", "moment", "picture"]


def read_rows(paths: Sequence[Path], *, missing: str = "skip") -> list[tuple[dict[str, Any], torch.Tensor]]:
    """All rows as load_embeddings has them."""
    found = []
    for path in paths:
        table, embeddings = load_embeddings(path, partial=True)
        for row, embedding in zip(table.to_pylist(), embeddings, strict=True):
            if missing == "zeros" or row["text_embedding_error"] is None:
                found.append((row, embedding))
    return found


def assert_equal(
    data: EmbeddingDataset, indices: Sequence[int], rows: list[tuple[dict[str, Any], torch.Tensor]]
) -> None:
    batch = data.__getitems__(indices)
    wanted = [rows[index] for index in indices]
    assert batch.lengths.tolist() == [len(embedding) for _, embedding in wanted]
    size = max((len(embedding) for _, embedding in wanted), default=0)
    assert batch.embeddings.shape == (len(indices), size, data.dim)
    for place, (row, embedding) in enumerate(wanted):
        assert torch.equal(batch.embeddings[place, : len(embedding)], embedding)
        assert not batch.embeddings[place, len(embedding) :].any()
        assert batch.mask[place].tolist() == [True] * len(embedding) + [False] * (size - len(embedding))
        assert batch.keys[place] == tuple(row[f"text_embedding_{name}"] for name in ("source", "row", "caption_index"))
        assert {name: values[place] for name, values in batch.columns.items()} == {
            name: row[name] for name in data.columns
        }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_output(tmp_path, SHARDS)
    return tmp_path


LENGTHS = st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=12)


@given(data=st.data(), lengths=st.lists(LENGTHS, min_size=1, max_size=5), storage=st.sampled_from(STORAGE_DTYPES))
def test_any_rows_in_any_order_are_those_that_are_loaded(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, lengths: list[list[int | None]], storage: str
) -> None:
    folder = tmp_path_factory.mktemp("out")
    shards = [Shard(lengths=part, source=f"{place}.parquet") for place, part in enumerate(lengths)]
    names = write_output(folder, shards, storage=storage, group_bytes=data.draw(st.sampled_from([1, 200, 8 << 20])))
    if other := data.draw(st.sampled_from([None, *OTHERS])):
        rewrite(folder / data.draw(st.sampled_from(names)), **OTHERS[other])
    missing = data.draw(st.sampled_from(["skip", "zeros"]))
    opened = EmbeddingDataset(folder, columns=KEPT, missing=missing, threads=data.draw(st.integers(1, 3)))
    rows = read_rows([folder], missing=missing)
    assert len(opened) == len(rows)
    for _ in range(2):
        indices = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20) if rows else st.just([]))
        assert_equal(opened, indices, rows)
    assert opened.lengths().tolist() == [len(embedding) for _, embedding in rows]
    assert opened.read_column("id").to_pylist() == [row["id"] for row, _ in rows]


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_shards_that_another_tool_wrote_again_have_the_same_rows(
    tmp_path: Path, storage: str, options: dict[str, Any]
) -> None:
    names = write_output(tmp_path, SHARDS, storage=storage, group_bytes=120)
    rows = read_rows([tmp_path])
    for name in names:
        rewrite(tmp_path / name, **options)
    data = EmbeddingDataset(tmp_path, columns=["caption", "picture"])
    assert_equal(data, [*range(EMBEDDED), *reversed(range(EMBEDDED))], rows)


@pytest.mark.parametrize("missing", ["skip", "zeros"])
def test_embeddings_that_are_compressed_to_next_to_nothing_are_read(tmp_path: Path, missing: str) -> None:
    """Their row group ends long before all of its bytes would."""
    (name,) = write_output(tmp_path, [Shard(lengths=[4000, 4000, None, 4000], number=1.5)], group_bytes=8 << 20)
    rewrite(tmp_path / name, compression="zstd")
    data = EmbeddingDataset(tmp_path, missing=missing)  # type: ignore[arg-type]
    assert_equal(data, range(len(data)), read_rows([tmp_path], missing=missing))


def test_one_row_is_a_sample(folder: Path) -> None:
    data, rows = EmbeddingDataset(folder, columns=["id"]), read_rows([folder])
    for index in (0, 4, -1, EMBEDDED - 1):
        sample, (row, embedding) = data[index], rows[index]
        assert torch.equal(sample.embedding, embedding)
        assert (sample.num_tokens, sample.dropped, sample.columns) == (len(embedding), False, {"id": row["id"]})
        assert sample.key.source == row["text_embedding_source"]
    for index in (EMBEDDED, -EMBEDDED - 1):
        with pytest.raises(IndexError, match=f"row {index} of {EMBEDDED}"):
            data[index]


def test_a_slice_is_a_batch_of_its_rows(folder: Path) -> None:
    data = EmbeddingDataset(folder)
    assert data[-3::2].keys == [data[EMBEDDED - 3].key, data[EMBEDDED - 1].key]
    assert len(data[5:5]) == 0


def test_all_rows_are_iterated_in_order(folder: Path) -> None:
    data = EmbeddingDataset(folder, columns=["id"])
    assert [sample.columns["id"] for sample in data] == data.read_column("id").to_pylist()
    for sample, (_, embedding) in zip(data, read_rows([folder]), strict=True):
        assert torch.equal(sample.embedding, embedding)


def test_several_outputs_are_one_after_the_other(tmp_path: Path) -> None:
    write_output(tmp_path / "one", SHARDS, storage="float32")
    write_output(tmp_path / "two", SHARDS, storage="int8", seed=50)
    paths = [tmp_path / "one", tmp_path / "two"]
    data = EmbeddingDataset(paths, columns=["id"])
    assert (len(data), data.dtype, len(data.jobs)) == (2 * EMBEDDED, torch.float32, 2)
    assert_equal(data, [20, 3, 25, 0, 13, 12], read_rows(paths))


def test_outputs_of_another_width_or_dtype_are_refused(tmp_path: Path) -> None:
    write_output(tmp_path / "one", SHARDS)
    write_output(tmp_path / "two", SHARDS, dim=6)
    write_output(tmp_path / "three", SHARDS, storage="bfloat16")
    with pytest.raises(OutputError, match=r"two: expected the width of .*one, 4, got 6"):
        EmbeddingDataset([tmp_path / "one", tmp_path / "two"])
    with pytest.raises(OutputError, match=r"three: expected the dtype of .*one, float16, got bfloat16"):
        EmbeddingDataset([tmp_path / "one", tmp_path / "three"])


def test_columns_of_two_outputs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        names = write_output(tmp_path / name, SHARDS)
    table = pq.read_table(tmp_path / "two" / names[0])
    words = pa.array([f"word {place}" for place in range(len(table))])
    pq.write_table(table.set_column(table.column_names.index("id"), "id", words), tmp_path / "two" / names[0])
    data = EmbeddingDataset([tmp_path / "one", tmp_path / "two"], columns=["id"])
    assert data.__getitems__([0, EMBEDDED]).columns == {"id": [0, "word 0"]}
    with pytest.raises(OutputError, match=r"two/.*: expected a column of int64 as in the first shard, got string"):
        data.read_column("id")


def test_outputs_of_other_weights_are_refused_and_those_that_do_not_know_theirs_are_not(tmp_path: Path) -> None:
    for name, weights in {"one": "aa" * 32, "two": "bb" * 32, "three": "unknown"}.items():
        write_output(tmp_path / name, SHARDS, weights=weights)
    with pytest.raises(OutputError, match=r"two: expected embeddings of the weights of .*one, .*\(aaaa.*\(bbbb"):
        EmbeddingDataset([tmp_path / "one", tmp_path / "two"])
    assert len(EmbeddingDataset([tmp_path / "one", tmp_path / "three", tmp_path / "one"])) == 3 * EMBEDDED


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_rows_are_numbered_by_arrays_of_any_whole_numbers(folder: Path, dtype: Any) -> None:
    data = EmbeddingDataset(folder)
    for numbers in (np.array([3, 1], dtype), torch.from_numpy(np.array([3, 1], dtype))):
        assert data.__getitems__(numbers).keys == data.__getitems__([3, 1]).keys
    with pytest.raises(IndexError, match="of 13"):
        data.__getitems__(np.array([np.iinfo(dtype).max], dtype))


@pytest.mark.parametrize("rows", [np.array([True, False]), torch.tensor([True]), np.array([[1, 2]]), np.array([1.5])])
def test_masks_and_whatever_else_does_not_number_rows_is_refused(folder: Path, rows: Any) -> None:
    with pytest.raises(InputError, match=r"rows: expected \(B,\) whole numbers, got"):
        EmbeddingDataset(folder).__getitems__(rows)


def test_what_is_kept_of_all_rows_cannot_be_changed_by_who_is_given_it(folder: Path) -> None:
    data = EmbeddingDataset(folder)
    for kept in (data.lengths(), data.row_group_offsets()):
        with pytest.raises(ValueError, match="read-only"):
            kept.sort()
    data.lengths([0, 3]).sort()


def test_pinning_without_an_accelerator_leaves_a_batch_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    batch = EmbeddingDataset(folder).__getitems__([0])
    assert batch.pin_memory() is batch


def test_an_output_that_is_not_finished_is_read_as_it_is_where_asked_for(tmp_path: Path) -> None:
    write_output(tmp_path, SHARDS, is_finished=False)
    with pytest.raises(UnfinishedError):
        EmbeddingDataset(tmp_path)
    data = EmbeddingDataset(tmp_path, partial=True, columns=["id"])
    assert_equal(data, range(EMBEDDED), read_rows([tmp_path]))


def test_rows_without_an_embedding_are_refused_by_name_where_asked_to(folder: Path) -> None:
    with pytest.raises(OutputError, match=r"4 rows have no embedding, the first of them in .*/000000000000-"):
        EmbeddingDataset(folder, missing="error")
    assert len(EmbeddingDataset(folder, missing="zeros")) == EMBEDDED + 4


def test_batches_are_padded_to_a_length_that_was_asked_for(folder: Path) -> None:
    data = EmbeddingDataset(folder, pad_to=41)
    assert data.__getitems__([0, 1]).embeddings.shape == (2, 41, 4)
    assert data.collate([data[0], data[1]]).embeddings.shape == (2, 41, 4)
    with pytest.raises(InputError, match="pad_to: expected at least the longest row's 40 tokens, got 39"):
        EmbeddingDataset(folder, pad_to=39).__getitems__([0, 2])


def test_samples_are_collated_to_the_batch_of_their_rows(folder: Path) -> None:
    data = EmbeddingDataset(folder, columns=["id"])
    batch, joined = data.__getitems__([5, 2]), data.collate([data[5], data[2]])
    assert data.collate(batch) is batch
    for name in ("embeddings", "lengths", "mask", "dropped"):
        assert torch.equal(getattr(batch, name), getattr(joined, name))
    assert (batch.columns, batch.keys) == (joined.columns, joined.keys)


def test_a_batch_is_ragged_without_its_pads(folder: Path) -> None:
    data = EmbeddingDataset(folder)
    ragged = data.__getitems__([2, 3, 0]).ragged
    assert torch.equal(ragged[0], data[2].embedding)
    assert ragged.lengths.tolist() == data.lengths([2, 3, 0]).tolist()


def test_a_dataset_that_was_pickled_reads_the_same(folder: Path) -> None:
    data = EmbeddingDataset(folder, columns=["id"])
    data.__getitems__([1])
    copy = pickle.loads(pickle.dumps(data))
    assert_equal(copy, range(EMBEDDED), read_rows([folder]))


def test_row_groups_begin_where_their_first_rows_are(tmp_path: Path) -> None:
    write_output(tmp_path, [Shard(lengths=[3, None, 1, 4]), Shard(lengths=[2, 2], first_row=4)], group_bytes=1)
    assert EmbeddingDataset(tmp_path).row_group_offsets().tolist() == [0, 1, 2, 3, 4, 5]
    assert EmbeddingDataset(tmp_path, missing="zeros").row_group_offsets().tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_dropped_rows_need_to_know_what_stands_for_them(folder: Path) -> None:
    with pytest.raises(InputError, match="dropped rows: expected outputs of a recipe"):
        EmbeddingDataset(folder)[Draw(0, True)]
    null = torch.arange(8.0).reshape(2, 4)
    batch = EmbeddingDataset(folder, null=null).__getitems__([Draw(2, True), 1, Draw(0)])
    assert batch.dropped.tolist() == [True, False, False]
    assert batch.lengths.tolist() == [2, 1, 3]
    assert torch.equal(batch.embeddings[0, :2], null.half())
    zeros = EmbeddingDataset(folder, null="zeros")[Draw(2, True)]
    assert (zeros.num_tokens, zeros.embedding.any().item(), zeros.dropped) == (40, False, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"missing": "skipped"}, "missing: expected one of skip, zeros, error"),
        ({"pad_to": 0}, "pad_to"),
        ({"threads": 0}, "threads"),
    ],
)
def test_options_that_cannot_be_are_refused(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EmbeddingDataset(folder, **options)


@pytest.mark.parametrize("name", ["ids", "text_embedding_bytes"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"columns: expected some of caption, id, .*got '{name}'"):
        EmbeddingDataset(folder, columns=[name])
