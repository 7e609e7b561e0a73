"""The codecs of stored embeddings: `CODECS` is the one place that names them, and a new one is an entry there.

T tokens, M model dim. Loads nothing heavy, so that the command line can list them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from t5enc.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

# int8 stores a token as its float32 scale followed by M integers.
SCALE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How tokens become bytes, (T, M) <-> (T, `token_bytes` of M) uint8.

    `working` is the dtype that embeddings have in memory, by its name in PyTorch. `decode` is given M, too.
    """

    working: str
    token_bytes: Callable[[int], int]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor, int], Tensor]


def _plain(dtype: str, number_bytes: int) -> Codec:
    """The numbers as they lie in memory, neither copied nor changed."""
    return Codec(
        working=dtype,
        token_bytes=lambda dim: dim * number_bytes,
        encode=_view_bytes,
        decode=partial(_view_numbers, dtype),
    )


def _view_bytes(values: Tensor) -> Tensor:
    import torch

    return values.contiguous().view(torch.uint8)


def _view_numbers(dtype: str, data: Tensor, _: int) -> Tensor:
    import torch

    return data.view(getattr(torch, dtype))


def _quantize(values: Tensor) -> Tensor:
    """Integers from -127 to 127, scaled by each token's largest value."""
    import torch

    scale = values.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    quantized = (values / scale).round().to(torch.int8)
    # Flat first: a column of no rows cannot be viewed as bytes.
    scale_bytes = scale.flatten().view(torch.uint8).view(-1, SCALE_BYTES)
    return torch.cat([scale_bytes, quantized.view(torch.uint8)], dim=1)


def _dequantize(data: Tensor, _: int) -> Tensor:
    import torch

    scale = data[:, :SCALE_BYTES].contiguous().view(torch.float32)
    return data[:, SCALE_BYTES:].view(torch.int8).float() * scale


CODECS: Mapping[str, Codec] = {
    "float16": _plain("float16", 2),
    "bfloat16": _plain("bfloat16", 2),
    "float32": _plain("float32", 4),
    "int8": Codec(working="float32", token_bytes=lambda dim: SCALE_BYTES + dim, encode=_quantize, decode=_dequantize),
}
STORAGE_DTYPES = tuple(CODECS)


def find_codec(storage: str) -> Codec:
    """The codec of this name; ConfigError where there is none."""
    if storage not in CODECS:
        raise ConfigError(f"storage_dtype: expected one of {', '.join(CODECS)}, got {storage!r}")
    return CODECS[storage]


def check_storage_dtype(dtype: str) -> None:
    """ConfigError unless embeddings can be stored as `dtype`."""
    find_codec(dtype)


def working_dtype(storage: str) -> torch.dtype:
    """The dtype that embeddings have in memory before they are stored and after they are read."""
    import torch

    found: torch.dtype = getattr(torch, find_codec(storage).working)
    return found


def token_bytes(storage: str, dim: int) -> int:
    """Bytes that one token takes on disk."""
    return find_codec(storage).token_bytes(dim)


def to_bytes(values: Tensor, storage: str) -> NDArray[np.uint8]:
    """(T, M) in the working dtype -> (T, bytes a token), without a copy unless quantized."""
    data: NDArray[np.uint8] = find_codec(storage).encode(values).numpy()
    return data


def from_bytes(data: NDArray[np.uint8], storage: str, dim: int) -> Tensor:
    """(T, bytes a token) -> (T, M) in the working dtype, without a copy unless quantized or read-only."""
    import torch

    raw = torch.from_numpy(data if data.flags.writeable else data.copy())
    return find_codec(storage).decode(raw, dim)
