from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.trainers.contents.samples import MEMBERS, check_member, make_sample


def read(member: str, data: bytes) -> Tensor:
    if member == "npy":
        return torch.from_numpy(np.load(io.BytesIO(data)))
    if member == "safetensors":
        return safetensors.torch.load(data)["text_embedding"]
    return pickle.loads(data) if member == "pickle" else torch.load(io.BytesIO(data), weights_only=True)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [0, 9])
def test_a_member_holds_rows_and_zeros_after_them(member: str, dtype: torch.dtype, length: int) -> None:
    if (member, dtype) == ("npy", torch.bfloat16):
        return
    values = torch.randn(20, 4).to(dtype)[5:12]
    found = read(member, b"".join(make_sample(member, values, length)))
    assert found.dtype == dtype
    assert torch.equal(found[:7], values)
    assert found.shape == (max(7, length), 4)
    assert not found[7:].any()


@pytest.mark.parametrize("member", ["pickle", "pth"])
def test_a_row_is_not_pickled_with_its_neighbours(member: str) -> None:
    values = torch.zeros(10_000, 4)[5:12]
    assert sum(map(len, make_sample(member, values, 0))) < 3000


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="member: expected one of npy, safetensors, pickle, pth, got 'npz'"):
        check_member("npz", "float16")
    with pytest.raises(ConfigError, match="dtype: expected float16 or float32 for npy, which has no bfloat16"):
        check_member("npy", "bfloat16")
    with pytest.raises(ConfigError, match="dtype: expected one of float16, bfloat16, float32, got 'int8'"):
        check_member("pth", "int8")
