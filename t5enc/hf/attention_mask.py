"""transformers' attention_mask, of any number of dimensions, as the engine takes it.

B batch, S sequence, H heads.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from t5enc.errors import InputError


def read_mask(mask: Tensor | None, embeds: Tensor, heads: int) -> Tensor | None:
    """A mask as booleans, or numbers to add, that broadcast to (B, H, S, S); None where everything is seen.

    As in transformers: 2-D is padding, 4-D is taken as it is (booleans, else numbers to add). 3-D says, query by key,
    who sees whom.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise InputError(f"attention_mask: expected a tensor, got {type(mask).__name__}")
    batch, length = embeds.shape[:2]
    expected = {2: (batch, length), 3: (batch, length, length)}.get(mask.dim())
    allowed = ((1, batch), (1, heads), (1, length), (length,))
    is_square = mask.dim() == 4 and all(size in sizes for size, sizes in zip(mask.shape, allowed, strict=True))
    if not is_square and tuple(mask.shape) != expected:
        wanted = expected or f"2, 3 or 4 dimensions for {batch} rows of {length} tokens and {heads} heads"
        raise InputError(f"attention_mask: expected {wanted}, got {tuple(mask.shape)}")
    mask = mask.to(embeds.device)
    if mask.dim() == 4:
        return mask
    mask = mask.bool()
    if not mask.is_cuda and not _is_traced() and mask.all():
        return None
    return rearrange(mask, "b k -> b 1 1 k") if mask.dim() == 2 else rearrange(mask, "b q k -> b 1 q k")


def _is_traced() -> bool:
    """Whether this mask stands for others."""
    return torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()
