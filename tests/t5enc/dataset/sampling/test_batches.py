"""Epochs cut into batches: every place once, by count, by length, by tokens, from any place in the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from t5enc.dataset.sampling.batches import Batches, BatchOptions, Place, cut_batches, find_cuts
from t5enc.errors import ConfigError

LENGTHS = st.lists(st.integers(0, 40), max_size=120)
SIZES = st.integers(1, 9)


@st.composite
def make_options(draw: st.DrawFn) -> BatchOptions:
    """Batches of every kind."""
    drop_last = draw(st.booleans())
    if draw(st.booleans()):
        window = draw(st.none() | st.integers(1, 50))
        return BatchOptions(batch_tokens=draw(st.integers(1, 200)), bucket_rows=window, drop_last=drop_last)
    size = draw(SIZES)
    window = draw(st.none() | st.integers(1, 5).map(lambda times: times * size))
    return BatchOptions(batch_size=size, bucket_rows=window, drop_last=drop_last)


def cut(lengths: Sequence[int], options: BatchOptions) -> Batches:
    tokens = np.array(lengths, np.int64)
    return cut_batches(len(lengths), options, lambda start, stop: tokens[start:stop], 5)


def list_batches(batches: Batches) -> list[list[int]]:
    place, found = Place(), []
    while place < batches.end:
        found.append(batches.take(place).tolist())
        place = batches.skip(place, 1)
    return found


@given(LENGTHS, make_options())
def test_each_place_comes_once_and_batches_are_counted(lengths: list[int], options: BatchOptions) -> None:
    batches = cut(lengths, options)
    found = list_batches(batches)
    assert len(found) == batches.count()
    assert all(found)
    last = 0
    if options.drop_last and options.batch_size:
        last = len(lengths) % options.batch_size
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths) - last))


@given(LENGTHS, make_options(), st.integers(0, 200), st.integers(0, 200))
def test_any_batch_is_found_from_any_other(lengths: list[int], options: BatchOptions, first: int, more: int) -> None:
    found = list_batches(cut(lengths, options))
    batches = cut(lengths, options)
    place = batches.skip(batches.skip(Place(), first), more)
    assert (place == batches.end) == (first + more >= len(found))
    assert batches.take(place).tolist() == (found[first + more] if first + more < len(found) else [])


@given(LENGTHS, SIZES, st.integers(1, 5))
def test_batches_of_a_window_are_full_and_of_neighbours_in_length(lengths: list[int], size: int, times: int) -> None:
    window = times * size
    found = list_batches(cut(lengths, BatchOptions(batch_size=size, bucket_rows=window)))
    assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
    for first in range(0, len(found), times):
        together = found[first : first + times]
        ranges = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in together)
        assert all(before[1] <= after[0] for before, after in pairwise(ranges))
        assert {place // window for batch in together for place in batch} == {first // times}


@given(LENGTHS, st.integers(1, 200), st.none() | st.integers(1, 50))
def test_batches_by_tokens_hold_no_more_than_the_budget_and_waste_none(
    lengths: list[int], budget: int, window: int | None
) -> None:
    found = list_batches(cut(lengths, BatchOptions(batch_tokens=budget, bucket_rows=window)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60).map(sorted), st.integers(1, 200))
def test_a_batch_ends_where_one_more_row_would_exceed_the_budget(lengths: list[int], budget: int) -> None:
    cuts = [0, *find_cuts(np.array(lengths, np.int64), budget), len(lengths)]
    for start, stop in pairwise(cuts):
        assert start < stop
        assert stop == start + 1 or (stop - start) * lengths[stop - 1] <= budget
        assert stop == len(lengths) or (stop - start + 1) * lengths[stop] > budget


def test_batches_of_a_window_are_mixed_and_never_otherwise() -> None:
    found = list_batches(cut(list(range(12)), BatchOptions(batch_size=2, bucket_rows=12)))
    assert found == [[0, 1], [2, 3], [10, 11], [8, 9], [6, 7], [4, 5]]
    found = list_batches(cut([3, 1, 2, 9, 1, 1, 4], BatchOptions(batch_tokens=6)))
    assert found == [[1, 4, 5], [3], [6], [2, 0]]


def test_a_window_is_measured_once_while_it_is_read() -> None:
    asked: list[tuple[int, int]] = []

    def measure(start: int, stop: int) -> NDArray[np.int64]:
        asked.append((start, stop))
        return np.ones(stop - start, np.int64)

    for options in (BatchOptions(batch_tokens=4, bucket_rows=8), BatchOptions(batch_size=4, bucket_rows=8)):
        asked.clear()
        assert len(list_batches(cut_batches(20, options, measure, 0))) == 5
        assert asked == [(0, 8), (8, 16), (16, 20)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "batch_size and batch_tokens: expected one of them, got None and None"),
        ({"batch_size": 1, "batch_tokens": 1}, "expected one of them, got 1 and 1"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"batch_tokens": 1.5}, "batch_tokens: expected a whole number of at least 1, got 1.5"),
        ({"batch_size": 4, "bucket_rows": 6}, r"bucket_rows: expected a multiple of batch_size \(4\), got 6"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BatchOptions(**options)
