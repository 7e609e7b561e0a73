"""fp8: PyTorch's own float8, number by number, with what is beyond it at its ends."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5enc.storage import from_bytes, to_bytes


def test_every_code_is_the_number_that_pytorch_has_for_it() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(8, 32)
    expected = codes.view(torch.float8_e4m3fn).to(torch.bfloat16)
    found = from_bytes(codes.numpy(), "fp8", 32)
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16))


@given(st.lists(st.floats(-448, 448, width=16), min_size=1))
def test_the_bytes_are_pytorchs_own(numbers: list[float]) -> None:
    values = torch.tensor([numbers], dtype=torch.bfloat16)
    assert to_bytes(values, "fp8").tobytes() == bytes(
        values.to(torch.float8_e4m3fn).view(torch.uint8).flatten().tolist()
    )


@given(st.lists(st.integers(0, 255).filter(lambda code: code & 127 != 127), min_size=1))
def test_what_float8_holds_is_exact(codes: list[int]) -> None:
    data = np.array([codes], np.uint8)
    again = to_bytes(from_bytes(data, "fp8", len(codes)), "fp8")
    assert np.array_equal(again, data)


def test_what_is_beyond_the_largest_number_is_that_number() -> None:
    values = torch.tensor([[449.0, -1e30, float("inf"), -float("inf"), 448.0, 1e-4]], dtype=torch.bfloat16)
    assert from_bytes(to_bytes(values, "fp8"), "fp8", 6).tolist() == [[448.0, -448.0, 448.0, -448.0, 448.0, 0.0]]
    none = torch.tensor([[float("nan")]], dtype=torch.bfloat16)
    assert from_bytes(to_bytes(none, "fp8"), "fp8", 1).isnan().all()


def test_the_bytes_are_what_they_were() -> None:
    values = torch.tensor([[0.0, 1.0, -1.5, 448.0, 2.0**-9, 0.3]], dtype=torch.bfloat16)
    assert to_bytes(values, "fp8").tobytes().hex() == "0038bc7e012a"
