"""bf16z and fp16z: every bit comes back, a value stands for itself, and torn ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t5enc.errors import OutputError
from t5enc.storage import count_tokens, decode_into, from_bytes, to_bytes, working_dtype
from t5enc.storage.codecs.planes import HEADER_BYTES

planes = pytest.mark.parametrize("storage", ["bf16z", "fp16z"])


def of_bits(bits: list[int] | Tensor, storage: str, dim: int) -> Tensor:
    return torch.as_tensor(bits).to(torch.int32).to(torch.int16).view(working_dtype(storage)).view(-1, dim)


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16))


@planes
@given(dim=st.integers(1, 9), bits=st.lists(st.integers(0, 65535), max_size=99))
def test_all_bits_come_back(storage: str, dim: int, bits: list[int]) -> None:
    values = of_bits(bits[: len(bits) // dim * dim], storage, dim)
    data = to_bytes(values, storage)
    assert_same_bits(from_bytes(data, storage, dim), values)
    assert count_tokens(data, storage, dim) == len(values)
    assert (data.size == 0) == (len(values) == 0)


@planes
def test_every_number_there_is_comes_back(storage: str) -> None:
    """Subnormal, negative zero, infinite and all that are none, with what they carry."""
    values = of_bits(torch.arange(65536), storage, 256)
    assert values.isnan().sum() > 200
    assert_same_bits(from_bytes(to_bytes(values, storage), storage, 256), values)


@pytest.mark.parametrize(("storage", "bits"), [("bf16z", 11.2), ("fp16z", 13.8)])
def test_numbers_of_one_size_take_fewer_bits(storage: str, bits: float) -> None:
    values = torch.randn(77, 1024, generator=torch.Generator().manual_seed(0)).to(working_dtype(storage))
    assert to_bytes(values, storage).size * 8 / values.numel() < bits


@planes
def test_a_value_that_does_not_shrink_takes_a_header_more(storage: str) -> None:
    values = of_bits(torch.randint(65536, (64, 64), generator=torch.Generator().manual_seed(0)), storage, 64)
    assert to_bytes(values, storage).size == 2 * 64 * 64 + HEADER_BYTES


@planes
@pytest.mark.parametrize("place", [3, 9, 200])
def test_a_value_cut_short_is_refused(storage: str, place: int) -> None:
    data = to_bytes(torch.ones(8, 64, dtype=working_dtype(storage)), storage)
    with pytest.raises(OutputError, match=r"expected a (value|plane) of"):
        decode_into(data[: min(place, len(data) - 1)], storage, torch.empty(8, 64, dtype=working_dtype(storage)))


@planes
def test_a_value_of_other_tokens_or_another_width_is_refused(storage: str) -> None:
    data = to_bytes(torch.ones(8, 64, dtype=working_dtype(storage)), storage)
    with pytest.raises(OutputError, match="expected a value of 7 tokens, got one of 8"):
        decode_into(data, storage, torch.empty(7, 64, dtype=working_dtype(storage)))
    with pytest.raises(OutputError, match="expected a plane of 520 bytes, got"):
        decode_into(data, storage, torch.empty(8, 65, dtype=working_dtype(storage)))


FROZEN = {
    "bf16z": (
        "040000001100000028b52ffd2028450000107f7f01001f800580828486888a8c8e9092"
        "9496989a9c9ea0a2a4a6a8aaacaeb0b2b4b6b8babcbec0c2c4c6c8caccce"
    ),
    "fp16z": (
        "040000001100000028b52ffd2028450000107c7c01001f800500020406080a0c0e1012"
        "1416181a1c1e20222426282a2c2e30323436383a3c3e40424446484a4c4e"
    ),
}


@pytest.mark.parametrize("storage", FROZEN)
def test_values_of_earlier_releases_are_read(storage: str) -> None:
    """The first plane as zstd, the second as it is: 40 times 1.5 with the last bits counting up."""
    values = torch.full((4, 10), 1.5, dtype=working_dtype(storage))
    values.view(torch.int16).add_(torch.arange(40, dtype=torch.int16).view(4, 10))
    found = from_bytes(np.frombuffer(bytes.fromhex(FROZEN[storage]), np.uint8), storage, 10)
    assert_same_bits(found, values)
    data = to_bytes(values, storage)
    assert (data[:4].view("<u4")[0], len(data)) == (4, len(bytes.fromhex(FROZEN[storage])))
