"""A caption's rows as a member of a webdataset sample: npy, safetensors, or a pickled tensor.

L tokens of a caption, S padded length, M model dim.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.trainers.contents.npz import TYPES, make_npy_header
from t5enc.trainers.format import Pieces
from t5enc.trainers.tensors import make_header, pad_bytes, pad_rows

# What a safetensors member calls its tensor.
TENSOR = "text_embedding"
DTYPES = ("float16", "bfloat16", "float32")


def check_member(extension: str, dtype: str) -> None:
    """ConfigError for an extension that is not known, a dtype that is not, or numpy's format with bfloat16."""
    if extension not in MEMBERS:
        raise ConfigError(f"member: expected one of {', '.join(MEMBERS)}, got {extension!r}")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if extension == "npy" and getattr(torch, dtype) not in TYPES:
        raise ConfigError(
            "dtype: expected float16 or float32 for npy, which has no bfloat16, got bfloat16; --option dtype=float32 "
            "loses nothing, --option member=safetensors keeps bfloat16"
        )


def make_sample(extension: str, values: Tensor, length: int) -> Pieces:
    """The bytes of a member: rows (L, M), or with a `length` S zeros after them, (S, M)."""
    return MEMBERS[extension](values, max(length, len(values)))


def _make_npy(values: Tensor, length: int) -> Pieces:
    return [make_npy_header(values.dtype, (length, values.shape[1])), *pad_bytes(values, length)]


def _make_safetensors(values: Tensor, length: int) -> Pieces:
    return [make_header([(TENSOR, values.dtype, (length, values.shape[1]))]), *pad_bytes(values, length)]


def _make_pickle(values: Tensor, length: int) -> Pieces:
    """A tensor of its own: a view would be pickled with all that it is a view of."""
    return [pickle.dumps(pad_rows(values, length))]


def _make_pth(values: Tensor, length: int) -> Pieces:
    stream = io.BytesIO()
    torch.save(pad_rows(values, length), stream)
    return [stream.getbuffer()]


MEMBERS: Mapping[str, Callable[[Tensor, int], Pieces]] = {
    "npy": _make_npy,
    "safetensors": _make_safetensors,
    "pickle": _make_pickle,
    "pth": _make_pth,
}
