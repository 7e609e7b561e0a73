"""What a codec is: two functions between the tokens of a caption and their bytes, and what is known of their size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How tokens become bytes: (T, M) in the dtype `working`, by its name in PyTorch, <-> uint8.

    Where every token takes `token_bytes` of M, `encode` gives (T, `token_bytes`), and T tokens of many captions may be
    encoded and decoded at once. Where values differ in size, `token_bytes` is None for any M, and what is encoded is
    one value, the whole of one caption, as (bytes,). `decode_into` fills (T, M), which may be a part of a padded
    batch, from bytes of either form, and `count_tokens` says how large T is. `bits` are those of one number, about.
    """

    working: str
    bits: float
    token_bytes: Callable[[int], int | None]
    encode: Callable[[Tensor], Tensor]
    decode_into: Callable[[Tensor, Tensor], None]
    count_tokens: Callable[[Tensor, int], int]
    is_plain: bool = False  # the bytes are the numbers as they lie in memory
    is_lossless: bool = False  # numbers of the working dtype come back to the bit


def count_by_size(token_bytes: Callable[[int], int]) -> Callable[[Tensor, int], int]:
    """`count_tokens` of a codec whose tokens are all of one size."""
    return lambda data, dim: data.numel() // token_bytes(dim)
