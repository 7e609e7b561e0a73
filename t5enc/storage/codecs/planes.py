"""bf16z, fp16z: numbers of 16 bits, a caption at a time and lossless, in two planes of bytes compressed by zstd.

Of a bfloat16 the eight bits of the exponent take about three, for most numbers of a text are of one size; the sign and
the rest look random and stay. So each number is turned left by a bit, which brings its sign to the other end, and high
bytes and low bytes are kept apart. A caption's value, of T tokens, is

    T, and the bytes of the high plane            4 bytes each, little endian
    the high bytes of all T M numbers in order    as zstd, or as they are where that is no shorter: T M bytes
    the low bytes                                 the same

and of no tokens it is empty.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from t5enc.errors import OutputError
from t5enc.storage.codecs.codec import Codec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

HEADER_BYTES = 8
# Measured: no higher level finds more in exponents, and each is slower.
LEVEL = 1
# Numbers that are put together at a time, so that they stay in a core's own cache.
BLOCK = 1 << 15


def make_planes(dtype: str, bits: float) -> Codec:
    """The codec of a dtype of 16 bits, of which about so many are left."""
    return Codec(
        working=dtype,
        bits=bits,
        token_bytes=lambda dim: None,
        encode=_compress,
        decode_into=_decompress_into,
        count_tokens=_read_tokens,
        is_lossless=True,
    )


def _compress(values: Tensor) -> Tensor:
    """(T, M) of one caption -> (bytes,)."""
    import numpy as np
    import torch

    if not len(values):
        return torch.empty(0, dtype=torch.uint8)
    numbers = values.contiguous().view(torch.int16).numpy().view(np.uint16).ravel()
    turned = (numbers << 1) | (numbers >> 15)
    high, low = _shrink((turned >> 8).astype(np.uint8)), _shrink(turned.astype(np.uint8))
    header = np.array([len(values), len(high)], "<u4").view(np.uint8)
    return torch.from_numpy(np.concatenate([header, high, low]))


def _shrink(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import numpy as np

    packed = np.frombuffer(_zstd().compress(plane), np.uint8)
    return packed if len(packed) < len(plane) else plane


def _read_tokens(data: Tensor, _: int) -> int:
    return _read_header(data)[0] if data.numel() else 0


def _read_header(data: Tensor) -> tuple[int, int]:
    """(T, bytes of the high plane)."""
    import numpy as np

    if data.numel() < HEADER_BYTES:
        raise OutputError(f"expected a value of at least {HEADER_BYTES} bytes, got {data.numel()}")
    tokens, high = data.flatten()[:HEADER_BYTES].numpy().view(np.dtype("<u4")).tolist()
    return tokens, high


def _decompress_into(data: Tensor, out: Tensor) -> None:
    """(bytes,) -> (T, M); OutputError where the bytes are not of a value with so many numbers."""
    import numpy as np
    import torch

    if not data.numel() and not len(out):
        return
    tokens, length = _read_header(data)
    if tokens != len(out):
        raise OutputError(f"expected a value of {len(out)} tokens, got one of {tokens}")
    planes = data.flatten()[HEADER_BYTES:].numpy()
    high, low = (_grow(plane, out.numel()) for plane in (planes[:length], planes[length:]))
    numbers = out.view(torch.int16).view(-1).numpy().view(np.uint16)
    for start in range(0, len(numbers), BLOCK):
        part = slice(start, start + BLOCK)
        turned = high[part].astype(np.uint16) << 8
        turned |= low[part]
        np.right_shift(turned, 1, out=numbers[part])
        numbers[part] |= turned << 15


def _grow(plane: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    import numpy as np

    if len(plane) == count:
        return plane
    try:
        found = np.frombuffer(_zstd().decompress(plane, decompressed_size=count), np.uint8)
    except OSError as error:
        raise OutputError(f"expected a plane of {count} bytes, got {len(plane)} that are none: {error}") from error
    if len(found) != count:
        raise OutputError(f"expected a plane of {count} bytes, got one of {len(found)}")
    return found


@cache
def _zstd() -> Any:
    import pyarrow as pa

    return pa.Codec("zstd", compression_level=LEVEL)
