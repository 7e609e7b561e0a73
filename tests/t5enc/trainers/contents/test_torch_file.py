"""Files of torch.save that are put together are PyTorch's own bytes."""

from __future__ import annotations

import io
import zlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5enc.trainers.contents import torch_file
from t5enc.trainers.contents.torch_file import Numbers, append_zeros, open_layout, save
from t5enc.trainers.tensors import pad_bytes, view_bytes

SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=3)


@given(data=st.binary(max_size=40), zeros=st.integers(0, 5000))
def test_the_checksum_of_what_zeros_follow_is_found_without_them(data: bytes, zeros: int) -> None:
    assert append_zeros(zlib.crc32(data), zeros) == zlib.crc32(data + bytes(zeros))


@given(shapes=SHAPES, dtype=st.sampled_from(["bfloat16", "int64", "bool", "float32"]), seed=st.integers(0, 99))
def test_files_of_tensors_of_any_shape_are_pytorchs_own(shapes: Any, dtype: str, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        f"key_{index}": torch.randint(0, 9, shape, generator=draw).to(getattr(torch, dtype))
        for index, shape in enumerate(shapes)
    }
    layout = open_layout(tensors)
    assert layout is not None
    made = layout.fill([Numbers(view_bytes(value), memoryview(b"")) for value in tensors.values()])
    assert b"".join(made) == save(tensors)


def test_rows_and_the_zeros_after_them_are_one_tensor() -> None:
    rows = torch.randn(3, 4).bfloat16()
    padded = torch.zeros(1, 7, 4, dtype=torch.bfloat16)
    padded[0, :3] = rows
    layout = open_layout({"rows": padded})
    assert layout is not None
    made = b"".join(layout.fill([Numbers(*pad_bytes(rows, 7))]))
    assert made == save({"rows": padded})
    assert torch.equal(torch.load(io.BytesIO(made), weights_only=True)["rows"], padded)


def test_a_pytorch_that_makes_other_files_is_asked_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "combine", lambda seed, value: seed + value)
    assert open_layout({"rows": torch.zeros(2)}) is None
    monkeypatch.setattr(torch_file, "save", lambda tensors: b"no zip")
    assert open_layout({"rows": torch.zeros(2)}) is None
