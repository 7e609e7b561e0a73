"""`.npz` files as pieces: the bytes that `numpy.savez` writes, without a copy of the numbers.

numpy writes an array to a zip in chunks that it copies first. Here the standard library's zipfile is given the
numbers as they lie in memory, and a stream that keeps what it is given.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from t5enc.trainers.tensors import view_bytes

# What zipfile writes before a member with 64-bit sizes, for it at the end, and last of all, without its name.
LOCAL, CENTRAL, END = 30 + 20, 46, 22
TYPES = {
    torch.float32: "<f4",
    torch.float16: "<f2",
    torch.int64: "<i8",
    torch.int16: "<i2",
    torch.bool: "|b1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An array of a file, whose bytes are the pieces end to end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Sequence[bytes | memoryview]

    @classmethod
    def of(cls, values: Tensor) -> Array:
        """A whole tensor."""
        return cls(dtype=values.dtype, shape=tuple(values.shape), pieces=[view_bytes(values)])


def make_npz(arrays: Mapping[str, Array], *, compress: bool = False) -> list[bytes | memoryview]:
    """The pieces of `numpy.savez`, or of `savez_compressed`, of these arrays in order."""
    pieces = _Pieces()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(pieces, mode="w", compression=method) as archive:  # type: ignore[call-overload]
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(make_npy_header(array.dtype, array.shape))
                for piece in array.pieces:
                    member.write(piece)
    return pieces.found


def measure_npz(shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> int:
    """Bytes of an uncompressed file of such arrays."""
    size = END
    for name, (dtype, shape) in shapes.items():
        numbers = torch.Size(shape).numel() * dtype.itemsize
        size += LOCAL + CENTRAL + 2 * len(f"{name}.npy") + len(make_npy_header(dtype, shape)) + numbers
    return size


@lru_cache(maxsize=4096)
def make_npy_header(dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    """What an `.npy` file of this dtype, which is one of `TYPES`, begins with."""
    stream = io.BytesIO()
    described = {"descr": TYPES[dtype], "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


@dataclass(slots=True)
class _Pieces:
    """A stream that keeps what is written; what is written again is as long as it was."""

    found: list[bytes | memoryview] = field(default_factory=list)
    _starts: dict[int, int] = field(default_factory=dict)
    _end: int = 0
    _place: int = 0

    def write(self, data: bytes | memoryview) -> int:
        size = len(data)
        if self._place == self._end:
            self._starts[self._place] = len(self.found)
            self.found.append(data)
            self._end += size
        else:
            number = self._starts[self._place]
            assert len(self.found[number]) == size
            self.found[number] = data
        self._place += size
        return size

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = 0) -> int:
        assert whence == 0
        self._place = place
        return place

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing is held back."""
