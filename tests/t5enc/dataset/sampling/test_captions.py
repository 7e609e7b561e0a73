"""Several captions a sample: the rows of each, and draws among them by weight, the same wherever a sample comes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.dataset.sampling.captions import Captions, open_captions
from t5enc.dataset.sampling.keyed import derive_key
from t5enc.errors import ConfigError
from tests.t5enc.dataset.stand_in import StandIn, make_captions

COUNTS = st.lists(st.integers(1, 5), min_size=1, max_size=30)


def list_samples(captions: Captions) -> list[list[int]]:
    return [captions.rows[a:b].tolist() for a, b in pairwise(captions.starts)]


@given(COUNTS, st.sampled_from(["row", "id"]))
def test_captions_of_a_row_are_a_sample_and_samples_are_in_order(counts: list[int], group_by: str) -> None:
    starts = np.cumsum([0, *counts]).tolist()
    expected = [list(range(a, b)) for a, b in pairwise(starts)]
    assert list_samples(open_captions(make_captions(counts), group_by, None)) == expected


def test_rows_of_a_sample_need_not_stand_together() -> None:
    data = StandIn([1] * 5, image=["b", "a", "b", "c", "a"])
    assert list_samples(open_captions(data, "image", None)) == [[0, 2], [1, 4], [3]]


def test_no_rows_have_no_samples() -> None:
    data = StandIn([], image=np.array([], np.int64), score=np.array([], np.float64))
    assert len(open_captions(data, "image", "score")) == 0


@given(COUNTS, st.sampled_from([None, [0.0, 1, 2, 3, 4], {4: 1, 3: 0, 2: 1, 1: 1, 0: 1}, "score"]), st.data())
def test_a_sample_has_the_same_draw_in_whatever_company(counts: list[int], weights: Any, data: st.DataObject) -> None:
    counts = [max(count, 2) for count in counts]
    captions = open_captions(make_captions(counts), "row", weights)
    everyone = captions.draw(np.arange(len(counts)), 17)
    some = np.array(data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=9)), np.int64)
    assert np.array_equal(captions.draw(some, 17), everyone[some])
    assert all(row in rows for row, rows in zip(everyone.tolist(), list_samples(captions), strict=True))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, [1 / 3, 1 / 3, 1 / 3]),
        ([6, 3, 1], [0.6, 0.3, 0.1]),
        (np.array([6, 3, 1]), [0.6, 0.3, 0.1]),
        ({0: 0.5, 1: 0, 2: 0.5}, [0.5, 0, 0.5]),
        ("score", [0, 1 / 3, 2 / 3]),
    ],
)
def test_captions_are_drawn_as_often_as_their_weights_say(weights: Any, expected: list[float]) -> None:
    samples = 20_000
    captions = open_captions(make_captions([3] * samples), "row", weights)
    drawn = np.bincount(captions.draw(np.arange(samples), derive_key(3)) % 3, minlength=3) / samples
    sigma = np.sqrt(np.array(expected) * (1 - np.array(expected)) / samples)
    assert (np.abs(drawn - expected) <= 3 * sigma).all()


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=8), st.integers(0, 2**63))
def test_a_caption_of_weight_zero_is_never_drawn(weights: list[float], key: int) -> None:
    """Whatever rounding does between weights of very different sizes."""
    weights = [*weights, 1.0]
    data = StandIn([1] * len(weights) * 3, image=sorted([0, 1, 2] * len(weights)), weight=weights * 3)
    rows = open_captions(data, "image", "weight").draw(np.arange(3), key)
    assert (rows // len(weights)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("large", [1e17, 1.7e308])
def test_a_sample_of_small_weights_has_its_own_say_after_large_ones(large: float) -> None:
    samples = 2000
    data = StandIn(
        [1] * 3 * (samples + 1),
        image=sorted([*range(samples + 1)] * 3),
        weight=[large, large, large, *[0.0, 1.0, 3.0] * samples],
    )
    places = np.arange(1, samples + 1)
    drawn = open_captions(data, "image", "weight").draw(places, derive_key(3)) - 3 * places
    assert set(drawn.tolist()) == {1, 2}
    assert abs((drawn == 2).mean() - 0.75) < 3 * np.sqrt(0.75 * 0.25 / samples)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "expected one for each caption index, got none for 1"),
        ({0: 1, 1: -1}, "expected numbers of at least 0, got -1.0 for row 1"),
        ({0: 1, 1: float("nan")}, "expected numbers of at least 0, got nan for row 1"),
        ({0: 0, 1: 1}, "expected some above 0 for each sample, got zeros for the sample of row 2"),
        ("id", "expected a column of numbers without nulls, got id of string"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_by_name(weights: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_captions(make_captions([2, 1]), "row", weights)


def test_rows_without_a_value_are_samples_among_the_others() -> None:
    """A data set names them last; in the order of samples they stand where they lie."""
    data = StandIn([1] * 5, image=[None, "b", "a", None, "b"])
    assert list_samples(open_captions(data, "image", None)) == [[0], [1, 4], [2], [3]]
