"""How near a storage dtype is: all of them, and those that change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t5enc.embeddings import Embeddings
from t5enc.storage import STORAGE_DTYPES, find_codec, working_dtype

every_dtype = pytest.mark.parametrize("storage", STORAGE_DTYPES)
plain_dtype = pytest.mark.parametrize("storage", [name for name in STORAGE_DTYPES if find_codec(name).is_plain])
exact_dtype = pytest.mark.parametrize("storage", [name for name in STORAGE_DTYPES if find_codec(name).is_lossless])


def allowed_error(values: Tensor, storage: str) -> Tensor:
    """(T, M): nothing, half a step of a group's largest value, or half a unit in the last place of a float8."""
    if storage == "int8g32":
        groups = torch.stack([part.abs().amax(1) for part in values.split(32, 1)], 1)
        # A scale is as large as the largest value wants, rounded up to 11 bits; or a subnormal of float16.
        return (groups / 127 / 2 * (1 + 2**-10) + 2**-25).repeat_interleave(32, 1)[:, : values.shape[1]] * 1.001
    if storage == "fp8":
        return torch.maximum(values.abs().float() / 16, torch.tensor(2.0**-10))
    return torch.zeros_like(values)


def assert_reads(found: Embeddings, expected: Embeddings, storage: str) -> None:
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.values.dtype == working_dtype(storage)
    assert found.values.shape == expected.values.shape
    assert ((found.values - expected.values).abs() <= allowed_error(expected.values, storage)).all()
