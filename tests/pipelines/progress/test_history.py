"""Amounts over time: nothing is lost, and however long it takes there are only so many slices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.progress.history import MOST_SLICES, History

SECONDS = st.floats(0, 1e6, allow_nan=False)


def test_an_amount_is_spread_over_the_seconds_that_it_took() -> None:
    history = History()
    history.add("tokens", 100.0, 0.5, 3.0)
    assert history.columns["tokens"] == pytest.approx([20.0, 40.0, 40.0])
    assert history.end == 3.0
    assert {len(column) for column in history.columns.values()} == {3}


def test_slices_double_where_there_would_be_too_many() -> None:
    history = History()
    for second in range(MOST_SLICES):
        history.add("captions", 1.0, second, second + 0.5)
    assert (history.width, len(history.columns["captions"])) == (1.0, MOST_SLICES)
    history.add("captions", 1.0, MOST_SLICES, MOST_SLICES + 0.5)
    assert history.width == 2.0
    assert history.columns["captions"] == [2.0] * (MOST_SLICES // 2) + [1.0]


@given(st.lists(st.tuples(st.floats(0, 1e9), SECONDS, SECONDS), max_size=30))
def test_sums_are_kept_whatever_comes_when(amounts: list[tuple[float, float, float]]) -> None:
    history = History()
    for amount, one, other in amounts:
        history.add("tokens", amount, min(one, other), max(one, other))
    assert sum(history.columns["tokens"]) == pytest.approx(sum(amount for amount, _, _ in amounts), rel=1e-6, abs=1e-3)
    assert all(len(column) <= MOST_SLICES for column in history.columns.values())


def test_what_began_before_the_run_counts_from_its_begin() -> None:
    history = History()
    history.add("waiting_seconds", 4.0, -10.0, 1.5)
    assert sum(history.columns["waiting_seconds"]) == pytest.approx(4.0)
