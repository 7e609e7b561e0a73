"""float16, bfloat16, float32: the numbers as they lie in memory, neither copied nor changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t5enc.storage.codecs.codec import Codec, count_by_size

if TYPE_CHECKING:
    from torch import Tensor


def make_plain(dtype: str, number_bytes: int) -> Codec:
    """The codec of a dtype whose numbers are of so many bytes."""
    return Codec(
        working=dtype,
        bits=8 * number_bytes,
        token_bytes=lambda dim: dim * number_bytes,
        encode=view_bytes,
        decode_into=_copy_numbers,
        count_tokens=count_by_size(lambda dim: dim * number_bytes),
        is_plain=True,
        is_lossless=True,
    )


def view_bytes(values: Tensor) -> Tensor:
    """(T, M) of any dtype -> (T, bytes of M numbers)."""
    import torch

    return values.contiguous().view(torch.uint8)


def _copy_numbers(data: Tensor, out: Tensor) -> None:
    import torch

    out.view(torch.uint8).copy_(data.view(len(out), -1))
