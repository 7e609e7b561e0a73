"""Attention over a flat stream in one compiled kernel, under the document mask.

T tokens in the stream, H heads, D head dim, R reach of the bias.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from t5enc.model.attention.plan import AttentionPlan
from t5enc.model.attention.position_bias import PositionBias
from t5enc.model.precision import poison


def attend_flex(qkv: Tensor, bias: PositionBias, plan: AttentionPlan, num_heads: int, scale: float = 1.0) -> Tensor:
    """(T, 3 H D) -> (T, H D) under the plan's block mask.

    Flex on CPUs gives zeros for a row of NaN scores, which would hide an overflow. So a query, key or value too
    large for the scores turns the whole stream to NaN, and the caller encodes its texts one by one.
    """
    table, reach, keyless = bias.table, bias.table.shape[-1] // 2, plan.keyless
    query, key, value = rearrange(qkv, "t (three h d) -> three 1 h t d", three=3, h=num_heads)

    def add_bias(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        biased = score + table[head, torch.clamp(column - row, -reach, reach) + reach]
        return biased if keyless is None else torch.where(keyless[row], 0.0, biased)

    attended = flex_attention(query, key, value, score_mod=add_bias, block_mask=plan.block_mask, scale=scale)
    assert isinstance(attended, Tensor)
    overflow = poison(qkv.float().square().sum())
    return rearrange(attended, "1 h t d -> t (h d)") + overflow.to(qkv.dtype)
