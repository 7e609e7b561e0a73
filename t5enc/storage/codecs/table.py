"""`CODECS`, the one place that names them: a new codec is an entry there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from t5enc.errors import ConfigError
from t5enc.storage.codecs.codec import Codec
from t5enc.storage.codecs.float8 import FLOAT8
from t5enc.storage.codecs.groups import GROUPS
from t5enc.storage.codecs.per_token import PER_TOKEN
from t5enc.storage.codecs.plain import make_plain
from t5enc.storage.codecs.planes import make_planes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

CODECS: Mapping[str, Codec] = {
    "float16": make_plain("float16", 2),
    "bfloat16": make_plain("bfloat16", 2),
    "float32": make_plain("float32", 4),
    "int8": PER_TOKEN,
    "int8g32": GROUPS,
    "fp8": FLOAT8,
    "bf16z": make_planes("bfloat16", 11),
    "fp16z": make_planes("float16", 14),
}
# What is asked for by another name than it is stored by.
ALIASES = {"int8": "int8g32"}
# Those that a new output is written in.
STORAGE_DTYPES = tuple(name for name in CODECS if name not in ALIASES)


def name_codec(asked: str) -> str:
    """The codec that embeddings are stored by where somebody asks for `asked`; ConfigError where there is none."""
    find_codec(asked)
    return ALIASES.get(asked, asked)


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


def token_bytes(storage: str, dim: int) -> int | None:
    """Bytes that one token takes on disk; None where that differs."""
    return find_codec(storage).token_bytes(dim)


def usual_token_bytes(storage: str, dim: int) -> int:
    """Bytes that one token takes on disk, or takes there about."""
    codec = find_codec(storage)
    return codec.token_bytes(dim) or math.ceil(codec.bits * dim / 8)


def to_bytes(values: Tensor, storage: str) -> NDArray[np.uint8]:
    """(T, M) in the working dtype -> (T, bytes a token), or (bytes,) where these differ; plain ones are not copied."""
    data: NDArray[np.uint8] = find_codec(storage).encode(values).numpy()
    return data


def from_bytes(data: NDArray[np.uint8], storage: str, dim: int) -> Tensor:
    """What `to_bytes` gave -> (T, M) in the working dtype; of plain numbers in memory that may be written, a view."""
    import torch

    if find_codec(storage).is_plain:
        return _wrap(data).flatten().view(working_dtype(storage)).view(-1, dim)
    out = torch.empty(count_tokens(data, storage, dim), dim, dtype=working_dtype(storage))
    decode_into(data, storage, out)
    return out


def decode_into(data: NDArray[np.uint8], storage: str, out: Tensor) -> None:
    """Bytes of T tokens -> `out` (T, M), contiguous and in the working dtype."""
    if len(out):
        find_codec(storage).decode_into(_wrap(data), out)


def count_tokens(data: NDArray[np.uint8], storage: str, dim: int) -> int:
    """T of so many bytes: of whole tokens, or of one value where these differ in size."""
    return find_codec(storage).count_tokens(_wrap(data), dim)


def _wrap(data: NDArray[np.uint8]) -> Tensor:
    """As a tensor, of which PyTorch wants that it may be written."""
    import torch

    return torch.from_numpy(data if data.flags.writeable else data.copy())
