"""float16, bfloat16, float32: the bytes that numpy and PyTorch have in memory."""

from __future__ import annotations

import pytest
import torch

from t5enc.storage import to_bytes, working_dtype

FROZEN = {"float16": "003c00bea92a", "bfloat16": "803fc0bf553d", "float32": "0000803f0000c0bfd52a553d"}


@pytest.mark.parametrize("storage", FROZEN)
def test_the_bytes_are_what_they_were(storage: str) -> None:
    values = torch.tensor([[1.0, -1.5, 0.05204280]]).to(working_dtype(storage))
    assert to_bytes(values, storage).tobytes().hex() == FROZEN[storage]
    assert to_bytes(values, storage).ctypes.data == values.data_ptr()
