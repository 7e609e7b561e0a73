"""Quantiles of a stream: torch.quantile's own while few, within the stated resolution beyond."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t5enc.checks.precision.quantiles import RESOLUTION, StreamQuantiles

LEVELS = (0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)
NUMBERS = st.floats(min_value=2.0**-120, max_value=2.0**120, width=32)


def stream(values: Tensor, exact_elements: int, piece: int = 9973) -> StreamQuantiles:
    found = StreamQuantiles(exact_elements)
    for part in values.split(piece):
        found.add(part)
    return found


def expect(values: Tensor) -> Tensor:
    return torch.quantile(values.double(), torch.tensor(LEVELS, dtype=torch.float64))


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 100_003])
def test_few_numbers_give_what_torch_gives(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).abs()
    found = stream(values, exact_elements=count)
    assert found.is_exact
    torch.testing.assert_close(torch.tensor(found.quantiles(LEVELS), dtype=torch.float64), expect(values))


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 100_003])
def test_many_numbers_are_within_the_resolution_over_all_sizes(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator).abs() * torch.randn(count, generator=generator).mul(6).exp()
    found = stream(values, exact_elements=count // 2)
    assert not found.is_exact
    assert (found.count, found.largest) == (count, float(values.max()))
    expected = expect(values)
    error = (torch.tensor(found.quantiles(LEVELS), dtype=torch.float64) - expected).abs() / expected
    assert float(error.max()) <= RESOLUTION


@given(st.lists(NUMBERS, min_size=1, max_size=30))
def test_any_numbers_are_within_the_resolution(numbers: list[float]) -> None:
    values = torch.tensor(numbers)
    found = torch.tensor(stream(values, exact_elements=0).quantiles((0.0, 1.0)))
    expected = torch.stack([values.min(), values.max()])
    assert float(((found - expected).abs() / expected).max()) <= RESOLUTION


@pytest.mark.parametrize("exact_elements", [0, 100])
def test_zeros_stay_zero_and_what_is_not_finite_is_infinite(exact_elements: int) -> None:
    found = StreamQuantiles(exact_elements)
    found.add(torch.tensor([[0.0, math.nan], [0.0, math.inf]]))
    found.add(torch.empty(0))
    found.add(torch.zeros(1))
    assert found.quantiles((0.0, 0.5, 0.6, 1.0)) == (0.0, 0.0, math.inf, math.inf)
    assert (found.count, found.largest) == (5, math.inf)


def test_no_numbers_have_no_quantiles() -> None:
    assert all(math.isnan(value) for value in StreamQuantiles().quantiles((0.5, 0.9)))
