"""Sampler, loader and an output together, alone and in loaders that people have: each row once, with its tokens."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from t5enc import EmbeddingDataset, EmbeddingLoader, EmbeddingSampler
from t5enc.dataset.samples import Batch
from t5enc.errors import ConfigError
from tests.pipelines.small_jobs import DIM
from tests.t5enc.dataset.outputs import Shard, write_output

# Processes are forked, and torchdata calls what torch no longer likes: neither is the sampler's matter.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]
SHARDS = [
    Shard(lengths=[3, 1, None, 40, 5], rows=[0, 0, 1, 1, 2]),
    Shard(lengths=[2, 2, 7], first_row=3),
    Shard(lengths=[None, None], source="b.parquet"),
    Shard(lengths=[1, 5, 6, 2, None, 9, 4], source="c/d.parquet", rows=[0, 0, 1, 2, 2, 2, 5]),
]
ROWS, SAMPLES = 13, 10
NULL_TOKENS = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingDataset:
    folder = tmp_path_factory.mktemp("output")
    write_output(folder, SHARDS)
    return EmbeddingDataset(folder, columns=["id"], null=torch.ones(NULL_TOKENS, DIM))


def check(data: EmbeddingDataset, batches: Iterable[Batch]) -> list[int]:
    """The rows of all batches, which hold what the data set has of them."""
    rows = {data[row].columns["id"]: row for row in range(len(data))}
    seen = []
    for batch in batches:
        for place, name in enumerate(batch.columns["id"]):
            row = rows[name]
            sample = data[(row, bool(batch.dropped[place]))]  # type: ignore[index]
            assert torch.equal(batch.embeddings[place, : batch.lengths[place]], sample.embedding)
            assert batch.keys[place] == sample.key
            seen.append(row)
    return seen


@pytest.mark.parametrize("order", ["rows", "row_groups", "sequential"])
@pytest.mark.parametrize("cut", [{"batch_size": 3}, {"batch_size": 2, "bucket_rows": 6}, {"batch_tokens": 20}])
def test_an_epoch_has_each_row_once_with_its_own_tokens(
    data: EmbeddingDataset, order: Any, cut: dict[str, int]
) -> None:
    for rank in range(2):
        sampler = EmbeddingSampler(data, order=order, rank=rank, world_size=2, **cut)
        assert len([*iter(EmbeddingLoader(data, sampler))]) == len(sampler)
    ranks = [
        EmbeddingLoader(data, EmbeddingSampler(data, order=order, rank=rank, world_size=3, **cut)) for rank in range(3)
    ]
    assert sorted(row for rank in ranks for row in check(data, rank)) == list(range(ROWS))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_batches_by_tokens_are_padded_to_no_more_than_the_budget(data: EmbeddingDataset, dropout: float) -> None:
    sampler = EmbeddingSampler(data, batch_tokens=20, dropout=dropout, seed=1)
    sizes = [batch.embeddings.shape[:2] for batch in EmbeddingLoader(data, sampler)]
    assert all(rows == 1 or rows * longest <= 20 for rows, longest in sizes)
    assert len(sizes) < ROWS


def test_one_caption_of_each_row_of_the_input_comes_an_epoch_and_others_later(data: EmbeddingDataset) -> None:
    sampler = EmbeddingSampler(data, batch_size=4, group_by="row", weights=[1, 1, 1])
    epochs = [[key for batch in EmbeddingLoader(data, sampler) for key in batch.keys] for _ in range(8)]
    for keys in epochs:
        assert len({key[:2] for key in keys}) == len(keys) == SAMPLES
    assert len({tuple(sorted(keys)) for keys in epochs}) > 1


def test_dropped_captions_have_the_null_rows_and_their_own_keys(data: EmbeddingDataset) -> None:
    batches = list(EmbeddingLoader(data, EmbeddingSampler(data, batch_size=5, dropout=0.5)))
    dropped = torch.cat([batch.dropped for batch in batches])
    assert 0 < dropped.sum() < ROWS
    for batch in batches:
        assert (batch.lengths[batch.dropped] == NULL_TOKENS).all()
        assert (batch.embeddings[batch.dropped, :NULL_TOKENS] == 1).all()
    assert sorted(check(data, batches)) == list(range(ROWS))


def test_a_rank_without_a_batch_gets_one_of_no_rows(data: EmbeddingDataset) -> None:
    loader = EmbeddingLoader(data, EmbeddingSampler(data, batch_size=13, rank=1, world_size=2))
    (batch,) = loader
    assert len(batch) == 0
    assert batch.embeddings.shape[0] == 0


def test_a_run_goes_on_with_the_same_captions_in_another_dtype_and_other_shards(
    data: EmbeddingDataset, tmp_path: Path
) -> None:
    """Which captions have which numbers is all that counts; those of another input are refused."""
    (tmp_path / "same").mkdir()
    (tmp_path / "other").mkdir()
    first, *others = SHARDS
    parts = [Shard(lengths=[3, 1], rows=[0, 0]), Shard(lengths=[None, 40, 5], rows=[1, 1, 2]), *others]
    write_output(tmp_path / "same", parts, storage="bfloat16")
    write_output(tmp_path / "other", [Shard(lengths=first.lengths, rows=first.rows, source="z.parquet"), *others])
    state = EmbeddingSampler(data, batch_size=2).state_dict()
    EmbeddingSampler(EmbeddingDataset(tmp_path / "same"), batch_size=2).load_state_dict(state)
    with pytest.raises(ConfigError, match="expected one made with data="):
        EmbeddingSampler(EmbeddingDataset(tmp_path / "other"), batch_size=2).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_loader_reads_in_the_samplers_order(data: EmbeddingDataset, workers: int) -> None:
    sampler = EmbeddingSampler(data, batch_tokens=20, seed=2)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=workers)  # type: ignore[arg-type]
    expected = [row for batch in EmbeddingSampler(data, batch_tokens=20, seed=2) for row in batch]
    assert check(data, loader) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_loader_goes_on_in_the_middle_of_an_epoch(data: EmbeddingDataset, workers: int) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")

    def open_loader() -> Any:
        sampler = EmbeddingSampler(data, batch_size=2, dropout=0.5)
        return torchdata.StatefulDataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=workers)

    first, second = open_loader(), open_loader()
    seen = check(data, [batch for _, batch in zip(range(3), first, strict=False)])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    expected = [draw.row for batch in EmbeddingSampler(data, batch_size=2, dropout=0.5) for draw in batch]  # type: ignore[union-attr]
    assert seen + check(data, second) == expected


@pytest.fixture
def grain() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("grain", reason="needs grain")


def test_grain_mixes_and_batches_an_output_by_itself(data: EmbeddingDataset, grain: Any) -> None:
    batches = grain.MapDataset.source(data).seed(0).shuffle().batch(4, batch_fn=data.collate)
    assert sorted(check(data, (batches[place] for place in range(len(batches))))) == list(range(ROWS))
    assert sorted(check(data, batches.to_iter_dataset())) == list(range(ROWS))
