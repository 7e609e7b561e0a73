"""Orders: each row once for any number of rows, evenly mixed, by key, computed where asked for, and never another."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from t5enc.dataset.sampling.keyed import derive_key
from t5enc.dataset.sampling.order import LARGEST, GroupOrder, RowOrder, SequentialOrder, find_sides, permute
from tests.t5enc.dataset.stand_in import BILLION


def order_all(count: int, key: int) -> NDArray[np.int64]:
    return permute(np.arange(count), count, key)


@given(st.integers(0, 3000), st.integers(0, 2**64 - 1))
def test_each_row_comes_once(count: int, key: int) -> None:
    assert np.array_equal(np.sort(order_all(count, key)), np.arange(count))


@pytest.mark.parametrize("count", range(70))
def test_each_row_comes_once_for_every_small_number(count: int) -> None:
    assert sorted(order_all(count, derive_key(count)).tolist()) == list(range(count))


@given(st.integers(1, LARGEST), st.integers(0, 2**64 - 1), st.data())
def test_no_two_places_have_the_same_row_of_many(count: int, key: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, count - 1))
    places = np.arange(start, min(start + 300, count))
    rows = permute(places, count, key)
    assert len(set(rows.tolist())) == len(places)
    assert rows.min() >= 0
    assert rows.max() < count


@given(st.integers(0, LARGEST))
def test_both_sides_hold_all_places_and_hardly_more(count: int) -> None:
    left, right = find_sides(count)
    assert count <= left * right < count + left + 1
    assert max(left, right) <= 2**31


@given(st.integers(1, 500), st.integers(0, 2**64 - 1), st.data())
def test_a_place_has_the_same_row_in_whatever_company(count: int, key: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=20)), np.int64)
    assert np.array_equal(permute(places, count, key), order_all(count, key)[places])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_all_orders_of_few_rows_are_equally_likely(count: int) -> None:
    draws, orders = 2_000, math.factorial(count)
    seen = Counter(tuple(order_all(count, derive_key(11, seed)).tolist()) for seed in range(draws))
    expected = draws / orders
    chi = sum((times - expected) ** 2 / expected for times in seen.values()) + (orders - len(seen)) * expected
    assert chi < orders - 1 + 4 * math.sqrt(2 * (orders - 1))


@pytest.mark.parametrize("count", [7, 50, 256, 300])
def test_every_row_is_equally_likely_at_every_place_and_after_every_row(count: int) -> None:
    orders = np.stack([order_all(count, derive_key(13, seed)) for seed in range(1_000)])
    places = np.stack([np.bincount(column, minlength=count) for column in orders.T])
    steps = np.bincount(((orders[:, 1:] - orders[:, :-1]) % count).ravel(), minlength=count)[1:]
    for counts, freedom in ((places, (count - 1) ** 2), (steps, count - 2)):
        chi = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi < freedom + 4 * math.sqrt(2 * freedom)


def test_neighbours_are_as_far_from_each_other_as_any_two_rows() -> None:
    rows = permute(np.arange(20_000), BILLION, 5).astype(float)
    assert abs(np.abs(np.diff(rows)).mean() / BILLION - 1 / 3) < 4 * math.sqrt(1 / 18 / len(rows)) * 1.2
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 4 / math.sqrt(len(rows))


def test_keys_have_different_orders() -> None:
    orders = {tuple(order_all(50, derive_key(0, epoch)).tolist()) for epoch in range(100)}
    assert len(orders) == 100


@pytest.mark.parametrize(
    ("count", "places", "rows"),
    [
        (5, [0, 1, 2, 3, 4], [1, 3, 0, 2, 4]),
        (300, [0, 1, 2, 150, 299], [265, 80, 78, 68, 176]),
        (BILLION, [0, 1, 2, BILLION - 1], [48350873, 897313336, 679333529, 142111262]),
        (LARGEST, [0, LARGEST - 1], [332404585433512580, 3056871535088273051]),
    ],
)
def test_no_order_ever_changes(count: int, places: list[int], rows: list[int]) -> None:
    assert permute(np.array(places), count, 42).tolist() == rows


def test_no_order_of_row_groups_ever_changes() -> None:
    order = GroupOrder(np.array([0, 3, 5, 9, 10]), 42, 2)
    assert order.take(np.arange(10)).tolist() == [8, 0, 7, 6, 2, 1, 5, 3, 9, 4]


def test_a_batch_of_a_billion_rows_takes_no_memory_that_grows() -> None:
    order = RowOrder(BILLION, 3)
    tracemalloc.start()
    try:
        order.take(np.arange(BILLION - 256, BILLION))
        assert tracemalloc.get_traced_memory()[1] < 256 * 8 * 20
    finally:
        tracemalloc.stop()


def test_a_sequence_is_the_rows_as_they_lie() -> None:
    assert SequentialOrder().take(np.arange(3, 6)).tolist() == [3, 4, 5]


GROUPS = st.lists(st.integers(0, 9), min_size=1, max_size=30)


@given(GROUPS, st.integers(1, 20), st.integers(0, 2**64 - 1))
def test_each_row_of_row_groups_comes_once_and_windows_are_of_whole_groups(
    groups: list[int], window: int, key: int
) -> None:
    offsets = np.cumsum([0, *groups])
    rows = GroupOrder(offsets, key, window).take(np.arange(offsets[-1]))
    assert np.array_equal(np.sort(rows), np.arange(offsets[-1]))
    of_group = np.searchsorted(offsets, rows, side="right") - 1
    chosen = permute(np.arange(len(groups)), len(groups), derive_key(key))
    start = 0
    for first in range(0, len(groups), window):
        together = chosen[first : first + window]
        stop = start + sum(groups[group] for group in together)
        assert set(of_group[start:stop].tolist()) <= set(together.tolist())
        start = stop


@given(GROUPS, st.integers(1, 20), st.data())
def test_a_place_among_row_groups_has_the_same_row_in_whatever_company(
    groups: list[int], window: int, data: st.DataObject
) -> None:
    offsets = np.cumsum([0, *groups])
    order = GroupOrder(offsets, 9, window)
    places = np.array(data.draw(st.lists(st.integers(0, max(int(offsets[-1]) - 1, 0)), max_size=20)), np.int64)
    places = places[places < offsets[-1]]
    assert np.array_equal(order.take(places), order.take(np.arange(offsets[-1]))[places])


def test_rows_within_a_window_of_row_groups_are_mixed() -> None:
    order = GroupOrder(np.arange(0, 1_001, 100), 1, 4)
    rows = order.take(np.arange(400))
    assert len(set((rows[:20] // 100).tolist())) > 1
    assert (np.diff(rows) == 1).sum() < 10


def test_no_row_groups_have_no_rows() -> None:
    assert GroupOrder(np.array([0]), 1, 4).take(np.arange(0)).tolist() == []
