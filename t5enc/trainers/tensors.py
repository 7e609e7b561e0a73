"""Bytes of tensors as trainers' files have them: dtypes, zeros after the rows, safetensors.

L tokens of a caption, S padded length, M model dim.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from t5enc.errors import ConfigError, OutputError

# Names of dtypes in safetensors.
SAFETENSORS = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
}
ALIGNMENT = 8


def find_dtype(name: str, among: Sequence[str]) -> torch.dtype:
    """The dtype of this name; ConfigError for one that is not among those that a format takes."""
    if name not in among:
        raise ConfigError(f"dtype: expected one of {', '.join(among)}, got {name!r}")
    found: torch.dtype = getattr(torch, name)
    return found


def narrow(values: Tensor, dtype: torch.dtype, where: object) -> Tensor:
    """Numbers in another dtype; OutputError with their place where float16 cannot hold one, which would be infinite."""
    made = values.to(dtype)
    if dtype == torch.float16 and values.dtype != dtype and made.numel() and any(map(torch.isinf, made.aminmax())):
        raise OutputError(f"{where}: expected numbers that float16 holds, got {values.abs().max().item():g}")
    return made


def view_bytes(values: Tensor) -> memoryview:
    """A tensor's numbers as they lie in memory, without a copy where it is contiguous."""
    numbers: memoryview = values.contiguous().view(-1).view(torch.uint8).numpy().data
    return numbers


@lru_cache(maxsize=4)
def view_zeros(size: int) -> memoryview:
    """So many zero bytes, which are shared."""
    return memoryview(bytes(size))


def pad_bytes(values: Tensor, length: int) -> list[memoryview]:
    """Rows (L, M), and zeros for as many as are missing to S: the pieces of (S, M)."""
    row = values.shape[1] * values.element_size()
    return [view_bytes(values), view_zeros(length * row)[: (length - len(values)) * row]]


def pad_rows(values: Tensor, length: int) -> Tensor:
    """The same as a tensor of its own (S, M)."""
    padded = values.new_zeros(length, values.shape[1])
    padded[: len(values)] = values
    return padded


def make_header(
    tensors: Sequence[tuple[str, torch.dtype, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """What a safetensors file begins with; `tensors` are names, dtypes and shapes in the order of their bytes.

    The library writes tensors of wider numbers first, and then by name.
    """
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        entries[name] = {"dtype": SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
