"""Laws of packing: every text once, no stream over budget, streams as full as promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.errors import ConfigError
from t5enc.model.packing import SMALLEST_RUNG, make_rungs, pack_full, pack_sorted, pick_rung, round_rows

Pack = Callable[[Sequence[int], int], list[list[int]]]
BUDGET = 64
lengths_in_budget = st.lists(st.integers(1, BUDGET), max_size=200)
any_lengths = st.lists(st.integers(1, 3 * BUDGET), max_size=100)
both = pytest.mark.parametrize("pack", [pack_sorted, pack_full])


def totals(streams: list[list[int]], lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[index] for index in stream) for stream in streams]


@both
@given(lengths=any_lengths)
def test_every_text_is_in_one_stream_and_no_stream_is_empty(pack: Pack, lengths: list[int]) -> None:
    streams = pack(lengths, BUDGET)
    assert sorted(index for stream in streams for index in stream) == list(range(len(lengths)))
    assert all(streams)


@both
@given(lengths=lengths_in_budget)
def test_no_stream_is_over_budget(pack: Pack, lengths: list[int]) -> None:
    assert all(total <= BUDGET for total in totals(pack(lengths, BUDGET), lengths))


@both
@given(lengths=any_lengths)
def test_a_text_longer_than_the_budget_is_alone(pack: Pack, lengths: list[int]) -> None:
    for stream in pack(lengths, BUDGET):
        assert len(stream) == 1 or max(lengths[index] for index in stream) <= BUDGET


@given(lengths=any_lengths)
def test_sorted_streams_hold_neighbours_in_length(lengths: list[int]) -> None:
    order = [lengths[index] for stream in pack_sorted(lengths, BUDGET) for index in stream]
    assert order == sorted(lengths)


@given(lengths=lengths_in_budget)
def test_full_streams_leave_no_room_for_a_text_of_a_later_stream(lengths: list[int]) -> None:
    streams = pack_full(lengths, BUDGET)
    free = [BUDGET - total for total in totals(streams, lengths)]
    for place, stream in enumerate(streams):
        smallest = min(lengths[index] for index in stream)
        assert all(room < smallest for room in free[:place])


@given(lengths=lengths_in_budget)
def test_full_packing_equals_plain_first_fit_decreasing(lengths: list[int]) -> None:
    streams: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [stream for stream in streams if sum(lengths[i] for i in stream) + lengths[index] <= BUDGET]
        if fits:
            fits[0].append(index)
        else:
            streams.append([index])
    assert pack_full(lengths, BUDGET) == streams


@both
@given(lengths=lengths_in_budget.filter(bool))
def test_streams_are_half_full_on_average_at_worst(pack: Pack, lengths: list[int]) -> None:
    assert len(pack(lengths, BUDGET)) <= 2 * sum(lengths) / BUDGET + 1


@given(budget=st.integers(SMALLEST_RUNG, 20_000), length=st.integers(1, 100_000))
def test_a_stream_runs_at_the_smallest_rung_that_holds_it(budget: int, length: int) -> None:
    rungs = make_rungs(budget)
    rung = pick_rung(length, rungs)
    assert rung >= length
    if length <= budget:
        assert rung in rungs
        assert all(smaller < length for smaller in rungs if smaller < rung)
    else:
        assert rung % budget == 0
        assert rung < length + budget


@given(budget=st.integers(SMALLEST_RUNG, 20_000))
def test_rungs_are_the_budget_and_its_halves(budget: int) -> None:
    rungs = make_rungs(budget)
    assert rungs[-1] == budget
    assert SMALLEST_RUNG <= rungs[0] < 2 * SMALLEST_RUNG
    assert all(large // 2 == small for small, large in pairwise(rungs))


def test_a_budget_below_the_smallest_rung_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^token_budget: expected at least 16, got 15$"):
        make_rungs(15)


@given(st.integers(1, 4096))
def test_rows_are_rounded_up_by_a_quarter_at_most_and_come_in_few_sizes(length: int) -> None:
    rows = round_rows(length)
    assert length <= rows <= max(16, length + min(128, max(16, length // 4)))
    assert round_rows(rows) == rows


def test_streams_up_to_the_budget_have_few_row_counts() -> None:
    assert len({round_rows(length) for length in range(1, 2049)}) == 28
