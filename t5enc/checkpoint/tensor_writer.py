"""Safetensors files written as a stream: the header first, then piece after piece, so that no tensor has to be whole.

Tensors begin at multiples of 64 bytes where their sizes allow, since kernels read mapped weights fastest there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

ALIGNMENT = 64
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedTensor:
    """A tensor to be written; `read` gives it as pieces of whole rows, in order, when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Iterable[Tensor]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_safetensors(path: Path, tensors: Iterable[StreamedTensor], metadata: Mapping[str, str]) -> None:
    """Write a file, one tensor after another."""
    ordered = sorted(tensors, key=lambda tensor: (tensor.nbytes % ALIGNMENT != 0, tensor.name))
    with path.open("wb") as file:
        file.write(_make_header(ordered, metadata))
        for tensor in ordered:
            _write_pieces(file, tensor)


def plan_shards(tensors: Iterable[StreamedTensor], limit: int) -> list[list[StreamedTensor]]:
    """Tensors in order, in shards of `limit` bytes at most; a larger one has a shard of its own."""
    shards: list[list[StreamedTensor]] = []
    used = 0
    for tensor in tensors:
        if not shards or used + tensor.nbytes > limit:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.nbytes
    return shards


def _make_header(tensors: Sequence[StreamedTensor], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, filled up with spaces as the format allows."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for tensor in tensors:
        end = start + tensor.nbytes
        header[tensor.name] = {"dtype": DTYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_pieces(file: BinaryIO, tensor: StreamedTensor) -> None:
    """No variable holds a piece while the next one is read."""
    start = file.tell()
    file.writelines(map(_as_bytes, tensor.read()))
    assert file.tell() - start == tensor.nbytes, tensor.name


def _as_bytes(piece: Tensor) -> memoryview:
    return piece.contiguous().flatten().view(torch.uint8).numpy().data
