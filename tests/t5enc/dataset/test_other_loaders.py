"""The sampler in loaders that people have: torch's DataLoader, torchdata's StatefulDataLoader, accelerate, grain."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader

from t5enc.dataset.sampler import EmbeddingSampler
from tests.t5enc.dataset.stand_in import StandIn

ROWS = 23
# Processes are forked, and torchdata calls what torch no longer likes: neither is the sampler's matter.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]
WORKERS = [0, 2]


def open_sampler(**options: Any) -> EmbeddingSampler:
    return EmbeddingSampler(StandIn(range(1, ROWS + 1)), **({"batch_size": 3, "seed": 4} | options))


def read_all(**options: Any) -> list[Any]:
    return list(open_sampler(**options))


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("options", [{}, {"batch_size": None, "batch_tokens": 60}], ids=["count", "tokens"])
def test_torchs_loader_gives_the_samplers_batches_epoch_by_epoch(workers: int, options: dict[str, Any]) -> None:
    loader = DataLoader(
        StandIn(range(1, ROWS + 1)),  # type: ignore[arg-type]
        batch_sampler=open_sampler(**options),
        collate_fn=list,
        num_workers=workers,
    )
    following = open_sampler(**options)
    for _ in range(2):
        assert len(loader) == len(following)
        assert list(loader) == list(following)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("stop", [0, 1, 5, 8])
def test_torchdatas_loader_goes_on_where_its_state_was_taken(workers: int, stop: int) -> None:
    """After so many of eight steps, in another process as far as it knows, and then with the next epoch."""
    expected = read_all()
    assert len(expected) == 8
    first = open_stateful(workers)
    seen = [batch for _, batch in zip(range(stop), first, strict=False)]
    state = json.loads(json.dumps(first.state_dict()))
    second = open_stateful(workers)
    second.load_state_dict(state)
    assert [*seen, *second] == expected
    following = open_sampler()
    following.set_epoch(1)
    assert list(second) == list(following)


def open_stateful(workers: int) -> Any:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    return torchdata.StatefulDataLoader(
        StandIn(range(1, ROWS + 1)), batch_sampler=open_sampler(), collate_fn=list, num_workers=workers
    )


def test_accelerate_takes_the_loader_as_it_is() -> None:
    """In one process. Among several it would deal batches to ranks that the sampler has dealt already."""
    data_loader = pytest.importorskip("accelerate.data_loader", reason="needs accelerate")
    loader = DataLoader(
        StandIn(range(1, ROWS + 1)),  # type: ignore[arg-type]
        batch_sampler=open_sampler(rank=0, world_size=1),
        collate_fn=list,
    )
    prepared = data_loader.prepare_data_loader(loader, num_processes=1, process_index=0, put_on_device=False)
    assert list(prepared) == read_all()


def test_accelerate_deals_a_sampler_of_one_process_to_several() -> None:
    data_loader = pytest.importorskip("accelerate.data_loader", reason="needs accelerate")
    whole = read_all(drop_last=True)
    shards = [
        list(data_loader.BatchSamplerShard(open_sampler(rank=0, world_size=1, drop_last=True), 2, rank))
        for rank in range(2)
    ]
    dealt = [batch for step in zip(*shards, strict=True) for batch in step]
    assert dealt == whole[: len(dealt)]
    assert len(dealt) == len(whole) // 2 * 2


@pytest.fixture
def grain() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("grain", reason="needs grain")


def test_grain_mixes_and_batches_a_source_by_itself(grain: Any) -> None:
    source = grain.MapDataset.source(StandIn([1] * ROWS))
    assert [source[row] for row in (5, 0, 22)] == [5, 0, 22]
    batches = source.shuffle(seed=1).batch(4, batch_fn=list)
    seen = [row for batch in batches for row in batch]
    assert sorted(seen) == list(range(ROWS))
    assert seen != sorted(seen)


def test_grain_reads_the_samplers_batches(grain: Any) -> None:
    """A list of an epoch's batches is a source, too, from which rows are read in its threads."""
    data = StandIn([1] * ROWS)
    dataset = grain.MapDataset.source(read_all()).map(data.__getitems__)
    assert list(dataset.to_iter_dataset()) == read_all()
