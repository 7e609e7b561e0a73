"""Attention over a batch that the caller padded, under any mask, with dropout in training.

B batch, S sequence, H heads, D head dim.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from t5enc.model.attention.plan import AttentionPlan
from t5enc.model.attention.position_bias import DENSE_BATCH_LIMIT, PositionBias, masked_bias
from t5enc.model.precision import residual_dtype


def attend_padded(
    qkv: Tensor, bias: PositionBias, plan: AttentionPlan, num_heads: int, scale: float = 1.0, dropout: float = 0.0
) -> Tensor:
    """(B, S, 3 H D) -> (B, S, H D) with SDPA; a bias too large for all queries at once is made piece by piece."""
    query, key, value = _split_heads(qkv, plan, num_heads)
    attend = partial(F.scaled_dot_product_attention, key=key, value=value, scale=scale, dropout_p=dropout)
    if bias.dense is not None:
        attended = attend(query, attn_mask=bias.dense)
    else:
        step = max(1, DENSE_BATCH_LIMIT // (qkv.shape[0] * num_heads * plan.longest))
        pieces = [slice(start, start + step) for start in range(0, plan.longest, step)]
        masks = (masked_bias(bias.table, plan, query.dtype, piece) for piece in pieces)
        attended = torch.cat(
            [attend(query[..., piece, :], attn_mask=mask) for piece, mask in zip(pieces, masks, strict=True)], dim=-2
        )
    return rearrange(attended, "b h s d -> b s (h d)")


def attend_eager(
    qkv: Tensor, bias: PositionBias, plan: AttentionPlan, num_heads: int, scale: float = 1.0, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The same by plain products, and the attention weights (B, H, S, S)."""
    query, key, value = _split_heads(qkv, plan, num_heads)
    assert bias.dense is not None
    wide = residual_dtype(query.dtype)
    scores = query.to(wide) @ key.to(wide).transpose(-1, -2) * scale + bias.dense
    weights = F.dropout(scores.softmax(dim=-1), dropout).to(query.dtype)
    attended = rearrange(weights @ value, "b h s d -> b s (h d)")
    assert isinstance(attended, Tensor)
    return attended, weights


def _split_heads(qkv: Tensor, plan: AttentionPlan, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, S, 3 H D) -> three times (B, H, S, D)."""
    query, key, value = rearrange(qkv, "b s (three h d) -> three b h s d", three=3, h=num_heads)
    return query if plan.has_keys is None else query * plan.has_keys, key, value
