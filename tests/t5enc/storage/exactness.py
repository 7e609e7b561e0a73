"""How near a storage dtype is: all of them, and those that change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t5enc.embeddings import Embeddings
from t5enc.storage import STORAGE_DTYPES, working_dtype

every_dtype = pytest.mark.parametrize("storage", STORAGE_DTYPES)
exact_dtype = pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32"])


def allowed_error(values: Tensor, storage: str) -> Tensor:
    """(T, 1): nothing, or half a step of the largest value of a token."""
    half_step = values.abs().amax(1, keepdim=True) / 127 / 2
    return half_step * 1.001 if storage == "int8" else torch.zeros_like(half_step)


def assert_reads(found: Embeddings, expected: Embeddings, storage: str) -> None:
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.values.dtype == working_dtype(storage)
    assert found.values.shape == expected.values.shape
    assert ((found.values - expected.values).abs() <= allowed_error(expected.values, storage)).all()
