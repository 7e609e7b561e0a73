"""int8g32: nothing clips, a massive channel spoils its own group alone, and the bytes are what they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.storage import from_bytes, to_bytes
from t5enc.storage.codecs.groups import count_groups, count_token_bytes
from tests.t5enc.storage.exactness import allowed_error

NUMBERS = st.floats(-8e6, 8e6, width=32)


def through(values: Tensor) -> Tensor:
    return from_bytes(to_bytes(values, "int8g32"), "int8g32", values.shape[1])


@given(st.integers(1, 70).flatmap(lambda dim: st.lists(st.lists(NUMBERS, min_size=dim, max_size=dim), min_size=1)))
def test_a_number_is_off_by_half_a_step_at_most(rows: list[list[float]]) -> None:
    values = torch.tensor(rows)
    data = to_bytes(values, "int8g32")
    assert (through(values).sub(values).abs() <= allowed_error(values, "int8g32")).all()
    assert data[:, 2 * count_groups(values.shape[1]) :].view(np.int8).min() >= -127


@given(largest=st.floats(2.0**-30, 8e6, width=32), sign=st.sampled_from([-1, 1]))
def test_the_largest_of_a_group_does_not_clip(largest: float, sign: int) -> None:
    values = torch.tensor([[sign * largest, largest / 2, 0.0]])
    step = float(to_bytes(values, "int8g32")[0, :2].view(np.float16)[0])
    assert largest <= 127 * step
    assert abs(float(through(values)[0, 0]) - sign * largest) <= step / 2 * 1.001


def test_a_massive_channel_spoils_its_own_group_alone() -> None:
    values = torch.randn(20, 4096, generator=torch.Generator().manual_seed(0))
    values[:, 5] = 3000.0
    error = (through(values) - values).norm(dim=1) / values[:, 6:].norm(dim=1)
    assert (through(values)[:, 32:] - values[:, 32:]).abs().max() < 0.03
    assert error.max() < 0.15


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=80), st.integers(-10, 10))
def test_whole_steps_come_back_as_they_were(steps: list[int], power: int) -> None:
    steps[::32] = [127] * len(steps[::32])
    values = torch.tensor([steps]) * 2.0**power
    assert torch.equal(through(values), values)


def test_zeros_and_numbers_below_every_scale_are_zeros() -> None:
    values = torch.tensor([[0.0, -0.0, 1e-44, 1e-9]])
    assert not through(values).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 8.4e6])
@pytest.mark.parametrize("dim", [32, 33, 5])
def test_what_no_scale_holds_is_refused(bad: float, dim: int) -> None:
    values = torch.ones(3, dim)
    values[1, -1] = bad
    with pytest.raises(ConfigError, match=r"int8g32 expects finite numbers up to 8.32e\+06, got .*bfloat16"):
        to_bytes(values, "int8g32")


def test_the_bytes_are_what_they_were() -> None:
    """Two tokens of 34 numbers: two scales each, of 32 numbers and of two."""
    values = torch.arange(68.0).view(2, 34) - 33
    values[1, :32] = 0
    assert count_token_bytes(34) == 38
    assert to_bytes(values, "int8g32").tobytes().hex() == FROZEN
    assert torch.equal(from_bytes(np.frombuffer(bytes.fromhex(FROZEN), np.uint8), "int8g32", 34), through(values))


FROZEN = (
    "293409208185898d9094989ca0a4a8abafb3b7bbbfc2c6caced2d6dadde1e5e9edf1f4f88100"
    "0000493400000000000000000000000000000000000000000000000000000000000000007b7f"
)
