"""Batches read ahead: in order, with the state of what was given, and no thread left behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.dataset.loader import EmbeddingLoader
from t5enc.dataset.sampler import EmbeddingSampler
from t5enc.errors import ConfigError
from tests.t5enc.dataset.stand_in import StandIn

PREFETCH = st.integers(0, 4)


class Failing(StandIn):
    """A data set of which one row cannot be read."""

    broken: int | None = None

    def __getitems__(self, rows: Sequence[Any]) -> list[int]:
        if self.broken in rows:
            raise OSError(f"row {self.broken} is gone")
        return super().__getitems__(rows)


class Pinned(list[int]):
    """A batch that can be pinned, once."""

    def pin_memory(self) -> str:
        return f"pinned in {threading.current_thread().name}"


def open_loader(rows: int = 20, prefetch: int = 2, **options: Any) -> EmbeddingLoader:
    data = StandIn([1] * rows)
    return EmbeddingLoader(data, EmbeddingSampler(data, batch_size=2, **options), prefetch=prefetch)


def count_threads() -> int:
    return sum(thread.name.startswith("t5enc-loader") for thread in threading.enumerate())


@given(st.integers(0, 30), PREFETCH)
def test_batches_come_in_the_samplers_order(rows: int, prefetch: int) -> None:
    data = StandIn([1] * rows)
    expected = list(EmbeddingSampler(data, batch_size=2))
    assert list(open_loader(rows, prefetch)) == expected
    assert len(open_loader(rows, prefetch)) == len(expected)


@given(st.integers(0, 12), PREFETCH, PREFETCH)
def test_the_state_is_that_of_the_last_batch_given_however_far_it_reads(stop: int, before: int, after: int) -> None:
    whole = list(open_loader())
    loader = open_loader(prefetch=before)
    seen = [batch for _, batch in zip(range(stop), loader, strict=False)]
    resumed = open_loader(prefetch=after)
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    if resumed.epoch == 0:
        seen += list(resumed)
    assert seen == whole


def test_what_was_read_ahead_and_not_used_comes_again() -> None:
    loader = open_loader(prefetch=4)
    seen = []
    for batch in loader:
        seen.append(batch)
        break
    assert [*seen, *loader] == list(open_loader())


def test_epochs_follow_each_other() -> None:
    loader, sampler = open_loader(), EmbeddingSampler(StandIn([1] * 20), batch_size=2)
    for epoch in range(3):
        assert loader.epoch == epoch
        assert list(loader) == list(sampler)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_a_loop_that_counts_its_steps_goes_on_with_the_next_epoch(prefetch: int) -> None:
    loader, counted = open_loader(), open_loader(prefetch=prefetch)
    expected = [*loader, *loader, *loader]
    assert [batch for _ in range(3) for _, batch in zip(range(10), counted, strict=False)] == expected
    counted.load_state_dict(counted.state_dict())
    assert list(counted) == []
    assert list(counted) == list(loader)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_epochs_without_a_step_are_counted_one_by_one(prefetch: int) -> None:
    loader = open_loader(0, prefetch)
    for epoch in range(3):
        assert loader.epoch == epoch
        assert list(loader) == []


def test_the_same_epoch_goes_on_and_another_begins() -> None:
    loader = open_loader()
    first = next(iter(loader))
    loader.set_epoch(0)
    assert [first, *loader] == list(open_loader())
    loader.set_epoch(7)
    chosen = EmbeddingSampler(StandIn([1] * 20), batch_size=2)
    chosen.set_epoch(7)
    assert list(loader) == list(chosen)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_who_sends_the_sampler_elsewhere_sends_the_loader(prefetch: int) -> None:
    whole, loader = list(open_loader()), open_loader(prefetch=prefetch)
    state = loader.state_dict()
    assert [batch for _, batch in zip(range(4), loader, strict=False)] == whole[:4]
    loader.sampler.load_state_dict(state)
    assert [batch for _, batch in zip(range(2), loader, strict=False)] == whole[:2]
    loader.sampler.set_epoch(0)  # the same: it goes on
    assert list(loader) == whole[2:]
    loader.sampler.set_epoch(0)
    assert list(loader) == whole


def test_an_epoch_may_be_named_while_it_is_read() -> None:
    loader, seen = open_loader(), []
    for batch in loader:
        loader.set_epoch(0)
        seen.append(batch)
    assert seen == list(open_loader())


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_iteration_that_was_left_takes_no_batch_from_the_next(prefetch: int) -> None:
    loader = open_loader(prefetch=prefetch)
    left, seen = iter(loader), []
    seen.append(next(left))
    for batch in loader:
        assert next(left, None) is None
        seen.append(batch)
    assert seen == list(open_loader())


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_iteration_ends_where_another_begins_or_a_state_is_loaded(prefetch: int) -> None:
    loader = open_loader(prefetch=prefetch)
    state = loader.state_dict()
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(second)
    assert list(first) == []
    loader.load_state_dict(state)
    assert list(second) == []
    assert list(loader) == list(open_loader())
    assert count_threads() == 0


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_exception_comes_where_its_batch_would_have_and_the_batch_can_be_read_again(prefetch: int) -> None:
    data = Failing([1] * 20)
    expected = list(EmbeddingSampler(data, batch_size=2))
    data.broken = expected[4][1]  # type: ignore[assignment]
    loader = EmbeddingLoader(data, EmbeddingSampler(data, batch_size=2), prefetch=prefetch)
    seen = []
    with pytest.raises(OSError, match="is gone"):
        seen.extend(batch for batch in iter(loader))
    assert count_threads() == 0
    data.broken = None
    assert list(loader) == expected[4:]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_the_sampler_raises_comes_after_the_batches_before_it(prefetch: int) -> None:
    data = StandIn([1] * 20)
    sampler = EmbeddingSampler(data, batch_size=2, bucket_rows=4)
    measure = data.lengths
    asked: list[int] = []

    def fail_later(rows: Any = None) -> Any:
        asked.append(len(rows))
        if len(asked) > 3:
            raise OSError("lengths are gone")
        return measure(rows)

    data.lengths = fail_later  # type: ignore[method-assign]
    seen: list[Any] = []
    with pytest.raises(OSError, match="lengths are gone"):
        seen.extend(batch for batch in EmbeddingLoader(data, sampler, prefetch=prefetch))
    assert len(seen) == 6


def test_no_thread_is_left_by_who_leaves_early_or_late() -> None:
    loader = open_loader(prefetch=3)
    for _ in loader:
        assert count_threads() > 0
        break
    assert count_threads() == 0
    list(loader)
    assert count_threads() == 0


def test_batches_are_read_ahead_while_one_is_used() -> None:
    """The second batch is read though nobody asks for it: the first waits for that."""
    data = Failing([1] * 20)
    read = threading.Semaphore(0)
    fetch = data.__getitems__

    class Watched(Failing):
        def __getitems__(self, rows: Sequence[Any]) -> list[int]:
            read.release()
            return fetch(rows)

    watched = Watched([1] * 20)
    for _ in EmbeddingLoader(watched, EmbeddingSampler(watched, batch_size=2), prefetch=2):
        assert all(read.acquire(timeout=60) for _ in range(3))
        break


def test_batches_are_collated_and_pinned_in_the_threads() -> None:
    data = StandIn([1] * 2)
    sampler = EmbeddingSampler(data, batch_size=2)
    assert list(EmbeddingLoader(data, sampler, collate=sum)) == [1]
    (batch,) = EmbeddingLoader(data, sampler, collate=Pinned, pin_memory=True)
    assert batch.startswith("pinned in t5enc-loader")


def test_ranks_without_a_batch_get_one_without_rows() -> None:
    assert list(open_loader(2, rank=1, world_size=2)) == [[]]


def test_reading_ahead_of_less_than_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="prefetch: expected a whole number of at least 0, got -1"):
        open_loader(prefetch=-1)
