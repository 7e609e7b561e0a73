"""Attention over a flat stream, documents of equal length viewed as a small batch.

No pads, no masks, no compiler, and the faster one on CPUs.

T tokens in the stream, H heads, D head dim, N documents of one length, S their length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from t5enc.model.attention.bias import bias_between
from t5enc.model.attention.plan import AttentionPlan
from t5enc.model.attention.position_bias import DENSE_BIAS_LIMIT, PositionBias


def attend_sdpa(qkv: Tensor, bias: PositionBias, plan: AttentionPlan, num_heads: int, scale: float = 1.0) -> Tensor:
    """(T, 3 H D) -> (T, H D), group by group; tokens in no group get zeros."""
    attended = qkv.new_zeros(qkv.shape[0], qkv.shape[1] // 3)
    for start, documents, length, keys in plan.groups:
        rows = slice(start, start + documents * length)
        split = rearrange(qkv[rows], "(n s) (three h d) -> three n h s d", three=3, n=documents, h=num_heads)
        parts = (split[0], split[1, ..., :keys, :], split[2, ..., :keys, :])
        is_long = length > DENSE_BIAS_LIMIT
        result = _attend_long(parts, bias.table, scale) if is_long else _attend_group(parts, bias.dense, scale)
        attended[rows] = rearrange(result, "n h s d -> (n s) (h d)")
    return attended


Heads = tuple[Tensor, Tensor, Tensor]


def _attend_group(qkv: Heads, dense: Tensor | None, scale: float) -> Tensor:
    query, key, value = qkv
    assert dense is not None
    bias = dense[None, :, : query.shape[-2], : key.shape[-2]]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)


def _attend_long(qkv: Heads, table: Tensor, scale: float) -> Tensor:
    """Queries, keys and values -> (N, H, S, D), a block of queries at a time, so that memory grows with S alone."""
    query, key, value = qkv
    positions = torch.arange(query.shape[-2], device=table.device)
    parts = []
    for rows in torch.split(positions, DENSE_BIAS_LIMIT):
        bias = bias_between(table, rows, positions[: key.shape[-2]]).to(query.dtype)
        parts.append(F.scaled_dot_product_attention(query[..., rows, :], key, value, attn_mask=bias[None], scale=scale))
    return torch.cat(parts, dim=-2)
