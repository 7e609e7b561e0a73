"""An output that stores equal embeddings once is read as one that has each row's own: bit for bit, in order."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from t5enc import EmbeddingDataset, EmbeddingLoader, EmbeddingSampler, iter_embeddings, load_embeddings
from t5enc.embeddings import Embeddings
from t5enc.errors import OutputError
from t5enc.output import open_output
from t5enc.shards import shared
from t5enc.storage import STORAGE_DTYPES
from t5enc.storage.layout import JOB, SHARED, SUCCESS
from tests.t5enc.dataset.outputs import OTHERS, Shard, rewrite, write_output
from tests.t5enc.dataset.referring.making import often, refer
from tests.t5enc.dataset.test_dataset import assert_equal, read_rows

SHARDS = [
    Shard(lengths=[3, 1, None, 40, 0, 2, 2, 7], first_row=0),
    Shard(lengths=[5, 5, 5], first_row=8, number=0.5),
    Shard(lengths=[None, None], source="b.parquet"),
    Shard(lengths=[5, 5], source="c.parquet", number=0.5),
    Shard(lengths=[1, 5, 6, 2, None, 9, 4], source="d/e.parquet", rows=[0, 0, 1, 2, 2, 2, 5]),
]


def write_both(folder: Path, chooses: Callable[[int], bool] = often, **options: Any) -> tuple[Path, Path]:
    """A plain output, and one with the same rows of which some refer."""
    plain, referring = folder / "plain", folder / "referring"
    write_output(plain, SHARDS, **options)
    shutil.copytree(plain, referring)
    assert refer(referring, chooses) > 0
    return plain, referring


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    return write_both(tmp_path)


def assert_same(found: Embeddings, expected: Embeddings) -> None:
    assert torch.equal(found.offsets, expected.offsets)
    assert found.values.dtype == expected.values.dtype
    assert torch.equal(found.values.view(torch.uint8), expected.values.view(torch.uint8))


@pytest.mark.parametrize("chooses", [often, lambda _: True], ids=["some", "all"])
@pytest.mark.parametrize("storage", STORAGE_DTYPES)
def test_all_rows_are_loaded_as_those_of_a_plain_output(
    tmp_path: Path, storage: str, chooses: Callable[[int], bool]
) -> None:
    plain, referring = write_both(tmp_path, chooses, storage=storage)
    (expected, numbers), (table, found) = load_embeddings(plain), load_embeddings(referring)
    assert_same(found, numbers)
    names = [name for name in expected.column_names if name != "text_embedding_num_bytes"]
    assert table.select(names).to_pylist() == expected.select(names).to_pylist()
    assert set(table.column_names) - set(expected.column_names) == {"text_embedding_key", "text_embedding_shared_row"}


@pytest.mark.parametrize("missing", ["skip", "zeros"])
@pytest.mark.parametrize("storage", STORAGE_DTYPES)
def test_rows_in_any_order_are_those_of_a_plain_output(tmp_path: Path, storage: str, missing: Any) -> None:
    plain, referring = write_both(tmp_path, storage=storage)
    rows = read_rows([plain], missing=missing)
    data = EmbeddingDataset(referring, columns=["id", "caption"], missing=missing, threads=2)
    expected = EmbeddingDataset(plain, missing=missing)
    assert len(data) == len(expected) == len(rows)
    order = np.random.default_rng(0).permutation(2 * len(rows)) % len(rows)
    assert_equal(data, order.tolist(), rows)
    for sample, (_, embedding) in zip(data, rows, strict=True):
        assert torch.equal(sample.embedding, embedding)
    assert data.lengths().tolist() == expected.lengths().tolist()
    assert data.lengths([3, 0]).tolist() == expected.lengths([3, 0]).tolist()
    assert data.numbering == expected.numbering
    assert data.read_column("caption").to_pylist() == expected.read_column("caption").to_pylist()


def test_rows_without_an_embedding_are_an_error_where_they_may_not_be(both: tuple[Path, Path]) -> None:
    with pytest.raises(OutputError, match="4 rows have no embedding"):
        EmbeddingDataset(both[1], missing="error")


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("part", ["data", SHARED])
def test_shards_that_another_tool_wrote_again_are_read_too(both: tuple[Path, Path], other: str, part: str) -> None:
    plain, referring = both
    for path in (referring / part).rglob("*.parquet"):
        rewrite(path, **OTHERS[other])
    assert_same(load_embeddings(referring)[1], load_embeddings(plain)[1])
    rows = read_rows([plain])
    assert_equal(EmbeddingDataset(referring), range(len(rows)), rows)


def test_shards_alone_and_one_by_one_have_what_their_rows_refer_to(both: tuple[Path, Path]) -> None:
    plain, referring = both
    names = open_output(plain).shards
    for name, (_, part), (_, expected) in zip(names, iter_embeddings(referring), iter_embeddings(plain), strict=True):
        assert_same(part, expected)
        table, alone = load_embeddings(referring / name, ["id"])
        assert_same(alone, expected)
        assert table.column_names == ["id"]
    assert len(load_embeddings(referring / SHARED)[1]) > 3


def test_an_unfinished_output_has_what_its_rows_refer_to(tmp_path: Path) -> None:
    plain, referring = write_both(tmp_path, is_finished=False)
    assert_same(load_embeddings(referring, partial=True)[1], load_embeddings(plain, partial=True)[1])
    rows = read_rows([plain])
    assert_equal(EmbeddingDataset(referring, partial=True), range(len(rows)), rows)
    (referring / SHARED / SUCCESS).unlink()
    with pytest.raises(OutputError, match=r"expected its embedding as row 1 of the finished shared/ of its output"):
        load_embeddings(referring, partial=True)
    with pytest.raises(OutputError, match=r"row 0: expected its embedding as row 1 of .*/shared, got 0 rows there"):
        EmbeddingDataset(referring, partial=True)[0]


def test_several_outputs_at_once_have_a_folder_of_embeddings_each(tmp_path: Path) -> None:
    plain, first = write_both(tmp_path / "a")
    third, second = write_both(tmp_path / "b", seed=50, storage="fp16z")
    paths = [first, plain, second]
    data = EmbeddingDataset(paths)
    rows = read_rows([plain, plain, third])
    assert_equal(data, [len(rows) - 1, 0, *range(len(rows))], rows)
    assert repr(data).startswith(f"EmbeddingDataset({first}, ")


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_worker_processes_give_the_same_batches(both: tuple[Path, Path], context: str) -> None:
    plain, referring = both
    data = EmbeddingDataset(referring)
    assert len(data[0].embedding) == 3  # files and threads are open before the fork
    loader = torch.utils.data.DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=4,
        collate_fn=data.collate,
        num_workers=2,
        multiprocessing_context=context,
    )
    rows = read_rows([plain])
    assert sum(map(len, loader)) == len(rows)
    found = [values[:count] for batch in loader for values, count in zip(batch.embeddings, batch.lengths, strict=True)]
    assert all(torch.equal(values, row) for values, (_, row) in zip(found, rows, strict=True))


def test_samplers_look_ups_and_pickles_are_unaffected(both: tuple[Path, Path]) -> None:
    plain, referring = (EmbeddingDataset(path) for path in both)
    for ours, theirs in zip(
        EmbeddingLoader(referring, EmbeddingSampler(referring, batch_size=3, seed=7)),
        EmbeddingLoader(plain, EmbeddingSampler(plain, batch_size=3, seed=7)),
        strict=True,
    ):
        assert ours.keys == theirs.keys
        assert torch.equal(ours.embeddings, theirs.embeddings)
    assert referring.find("d/e.parquet", 2, 2) == plain.find("d/e.parquet", 2, 2)
    assert referring.find_caption("caption 3 of a.parquet").tolist() == [2]
    assert referring.groups("row").offsets.tolist() == plain.groups("row").offsets.tolist()
    assert torch.equal(pickle.loads(pickle.dumps(referring))[2:9].embeddings, plain[2:9].embeddings)


def test_an_object_store_gives_them_too(both: tuple[Path, Path]) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec")
    plain, referring = both
    memory = fsspec.filesystem("memory")
    memory.put(str(referring), "/referring", recursive=True)
    rows = read_rows([plain])
    assert_equal(EmbeddingDataset("memory:///referring"), range(len(rows)), rows)
    assert_same(load_embeddings("memory:///referring")[1], load_embeddings(plain)[1])


def test_what_is_referred_to_is_read_by_byte_range_and_each_row_once(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    indexed: list[str] = []
    decode, read = shared.decode_into, shared.read_index
    monkeypatch.setattr(shared, "decode_into", lambda data, *rest: (decoded.append(len(data)), decode(data, *rest)))
    monkeypatch.setattr(shared, "read_group", lambda *_: pytest.fail("a row group was decoded"))
    monkeypatch.setattr(shared, "read_index", lambda file, **rest: (indexed.append(file.path), read(file, **rest))[1])
    referred = [set(table["text_embedding_shared_row"].to_pylist()) - {None} for table, _ in iter_embeddings(both[1])]
    assert len(decoded) == sum(map(len, referred)) == 11
    assert len(indexed) == len(set(indexed)) > 1


def break_away(folder: Path) -> None:
    shutil.rmtree(folder)


def break_shard(folder: Path) -> None:
    for path in (folder / "data").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:50])


def break_success(folder: Path) -> None:
    (folder / SUCCESS).unlink()


def break_job(folder: Path) -> None:
    job = json.loads((folder / JOB).read_text())
    job["identity"]["weights"] = "others"
    (folder / JOB).write_text(json.dumps(job))


def break_order(folder: Path) -> None:
    """The rows of another output, whose captions are others."""
    plain = folder.parent.parent / "others"
    write_output(plain, [Shard(lengths=[3] * 30)], seed=99)
    refer(plain, lambda _: True)
    shutil.rmtree(folder)
    shutil.copytree(plain / SHARED, folder)


def break_count(folder: Path) -> None:
    plain = folder.parent.parent / "others"
    write_output(plain, [Shard(lengths=[3])])
    refer(plain, lambda _: True)
    shutil.rmtree(folder)
    shutil.copytree(plain / SHARED, folder)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (break_away, "/shared: expected the finished output that rows of .*/referring refer to, got none"),
        (break_success, "/shared: expected the finished output that rows of .*/referring refer to, got none"),
        (break_job, "/shared: expected the weights of .*/referring, None, got others"),
        (break_shard, "/shared/data/.*expected a Parquet shard"),
        (break_order, r"row 0: expected its embedding as row 1 of .*/shared, got that of another caption; was"),
        (break_count, r"expected its embedding as row \d+ of .*/shared, got \d rows there"),
    ],
)
def test_what_is_missing_torn_or_replaced_is_named(
    both: tuple[Path, Path], spoil: Callable[[Path], None], told: str
) -> None:
    spoil(both[1] / SHARED)
    with pytest.raises(OutputError, match=told):
        load_embeddings(both[1])
    with pytest.raises(OutputError, match=told):
        EmbeddingDataset(both[1])[:]


def test_a_folder_that_is_replaced_while_it_is_read_is_an_error(both: tuple[Path, Path]) -> None:
    data = EmbeddingDataset(both[1])
    assert len(data[0].embedding) == 3
    (path,) = [path for path in (both[1] / SHARED).rglob("*.parquet") if "/000000000000-" in path.as_posix()]
    pq.write_table(pq.read_table(path), path)
    with pytest.raises(OutputError, match=r"/shared/data/.*changed since it was opened"):
        data[0]


def test_a_shard_apart_from_its_output_says_what_it_lacks(both: tuple[Path, Path], tmp_path: Path) -> None:
    name = open_output(both[1]).shards[0]
    shutil.copy(both[1] / name, tmp_path / "alone.parquet")
    with pytest.raises(OutputError, match=r"alone.parquet: row 0: expected its embedding as row 1 of the finished"):
        load_embeddings(tmp_path / "alone.parquet")
