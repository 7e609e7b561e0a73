"""Under other libraries' loaders, in the same process, in forked and in spawned ones, rows are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from t5enc import EmbeddingDataset, load_embeddings
from t5enc.dataset.draws import Draw
from t5enc.errors import InputError
from tests.t5enc.dataset.outputs import Shard, write_output

SHARDS = [Shard(lengths=[3, 1, 9, 2], source=f"{name}.parquet") for name in "abc"]
BATCHES = [[11, 0], [5, 2, 7], [], [Draw(3), Draw(4, True)], [1]]


@pytest.fixture
def data(tmp_path: Path) -> EmbeddingDataset:
    """A dataset that has read before: a process that is forked now inherits files, threads and locks."""
    write_output(tmp_path / "out", SHARDS)
    data = EmbeddingDataset(tmp_path / "out", columns=["id"], null=torch.ones(2, 4), threads=2)
    data.__getitems__(range(12))
    return data


@pytest.mark.parametrize(
    ("workers", "context"), [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.long)]
)
def test_torch_gives_the_batches_that_it_asks_for(data: EmbeddingDataset, workers: int, context: str | None) -> None:
    loader: Any = DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=BATCHES,  # type: ignore[arg-type]
        num_workers=workers,
        multiprocessing_context=context,
        collate_fn=data.collate,
    )
    for indices, batch in zip(BATCHES, loader, strict=True):
        expected = data.__getitems__(indices)
        for name in ("embeddings", "lengths", "mask", "dropped"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))
        assert (batch.columns, batch.keys) == (expected.columns, expected.keys)


def test_torch_gives_batches_of_single_rows_too(data: EmbeddingDataset) -> None:
    rows: Any = [data[index] for index in range(len(data))]
    (batch,) = DataLoader(rows, batch_size=12, collate_fn=data.collate)
    assert torch.equal(batch.embeddings, data[:].embeddings)


def test_a_loader_without_our_collate_function_is_told_of_it(data: EmbeddingDataset) -> None:
    with pytest.raises(InputError, match=r"expected DataLoader\(\.\.\., collate_fn=data\.collate\)"):
        next(iter(DataLoader(data, batch_size=4)))  # type: ignore[arg-type]


def give_rows(data: EmbeddingDataset) -> Iterator[Mapping[str, Any]]:
    for sample in data:
        yield {"id": sample.columns["id"], "embedding": sample.embedding.float().numpy()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_makes_a_dataset_of_the_rows(
    data: EmbeddingDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    table, embeddings = load_embeddings(tmp_path / "out")
    made = datasets.Dataset.from_generator(give_rows, gen_kwargs={"data": data}, cache_dir=str(tmp_path / "cache"))
    streamed = datasets.IterableDataset.from_generator(give_rows, gen_kwargs={"data": data})
    for rows in (list(made), list(streamed)):
        assert [row["id"] for row in rows] == table["id"].to_pylist()
        for row, embedding in zip(rows, embeddings, strict=True):
            assert np.array_equal(np.array(row["embedding"], np.float32), embedding.float().numpy())
