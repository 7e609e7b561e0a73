"""Numbers by key and counter: they are even, they do not follow each other's, and they never change."""

from __future__ import annotations

import numpy as np
import pytest

from t5enc.dataset.sampling.keyed import derive_key, draw_uniform, mix


def test_the_mix_is_that_of_splitmix64() -> None:
    """The first numbers of the generator that begins at 1234567, as its authors' program prints them."""
    states = np.array([1234567 + n * 0x9E3779B97F4A7C15 & 2**64 - 1 for n in (1, 2)], np.uint64)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973]


def test_keys_tell_parts_and_their_order_apart() -> None:
    parts = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (2**64 - 1,), (2**63, 3), (3, 2**63)]
    assert len({derive_key(*part) for part in parts}) == len(parts)


def test_keys_and_draws_never_change() -> None:
    assert derive_key(7, 3, 1) == 7337235262673435638
    drawn = draw_uniform(7337235262673435638, np.array([0, 1, 10**9])).tolist()
    assert drawn == [0.4066408052158401, 0.5644446041373798, 0.22663171718169095]


@pytest.mark.parametrize("key", [0, 1, derive_key(5)])
def test_draws_are_even_and_do_not_follow_each_other(key: int) -> None:
    drawn = draw_uniform(key, np.arange(100_000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 4 * np.sqrt(2 * 99)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / np.sqrt(len(drawn))


def test_draws_of_two_keys_have_nothing_in_common() -> None:
    first, second = (draw_uniform(derive_key(0, epoch), np.arange(100_000)) for epoch in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(len(first))
