from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t5enc.trainers.contents.npz import TYPES, Array, make_npz, measure_npz
from t5enc.trainers.tensors import pad_bytes

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
ARRAYS = st.dictionaries(
    st.text("abcdefgh_", min_size=1, max_size=9),
    st.tuples(SHAPES, st.sampled_from(list(TYPES))),
    min_size=1,
    max_size=5,
)


def make_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)


@pytest.mark.parametrize("compress", [False, True])
@given(described=ARRAYS)
def test_a_file_has_the_bytes_that_numpy_writes(
    compress: bool, described: dict[str, tuple[tuple[int, ...], torch.dtype]]
) -> None:
    tensors = {name: make_tensor(*entry) for name, entry in described.items()}
    stream = io.BytesIO()
    save = np.savez_compressed if compress else np.savez
    save(stream, **{name: tensor.numpy() for name, tensor in tensors.items()})
    found = b"".join(make_npz({name: Array.of(tensor) for name, tensor in tensors.items()}, compress=compress))
    assert found == stream.getvalue()
    if not compress:
        shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        assert measure_npz(shapes) == len(found)


def test_rows_and_zeros_after_them_are_one_array(tmp_path: Path) -> None:
    rows = torch.randn(3, 4)
    pieces = make_npz({"t5_out": Array(dtype=torch.float32, shape=(7, 4), pieces=pad_bytes(rows, 7))})
    (tmp_path / "a.npz").write_bytes(b"".join(pieces))
    found = np.load(tmp_path / "a.npz")["t5_out"]
    assert np.array_equal(found[:3], rows.numpy())
    assert not found[3:].any()


def test_numbers_are_not_copied() -> None:
    rows = torch.randn(3, 4)
    pieces = make_npz({"a": Array.of(rows)})
    [found] = [piece for piece in pieces if isinstance(piece, memoryview) and piece.nbytes == rows.nbytes]
    rows[0, 0] = 7
    assert np.frombuffer(found, np.float32)[0] == 7
