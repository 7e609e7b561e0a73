"""Attention over a flat stream of documents: two functions of one signature.

T tokens in the stream, H heads, D head dim, N documents of one length, S their length, R reach of the bias.

`attend_flex` is one compiled kernel under the document mask. `attend_sdpa` views documents of equal length, which
stand side by side in the stream, as a small batch: no pads, no masks, no compiler, and the faster one on CPUs.
There is no 1/sqrt(D) in either: T5 is trained with that factor inside its weights (Raffel et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from t5enc.bias import bias_between
from t5enc.linear import Linear, ResidualLinear
from t5enc.masks import document_mask
from t5enc.precision import input_scale, poison

# Longer documents get their bias in rows of this many queries instead of one (H, S, S) matrix.
DENSE_BIAS_LIMIT = 1024


class Group(NamedTuple):
    """Some `documents` of `length` tokens each, from token `start` of the stream on."""

    start: int
    documents: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """Who attends to whom in one stream: a block mask for Flex, or groups of equal length for SDPA."""

    total: int
    groups: tuple[Group, ...] = ()
    block_mask: BlockMask | None = None

    @property
    def longest(self) -> int:
        """Length of the longest document that SDPA will see."""
        return max((group.length for group in self.groups), default=0)


class PositionBias(NamedTuple):
    """The bias of one table: over distances, and for SDPA also as a matrix that every length is a corner of."""

    table: Tensor  # (H, 2R + 1), float32
    dense: Tensor | None  # (H, S, S) of the longest length up to the limit, compute dtype


def plan_flex(lengths: Sequence[int], total: int, *, block_size: int, device: torch.device) -> AttentionPlan:
    """Documents in stream order, the stream padded to `total` tokens."""
    mask = document_mask(lengths, total, block_size=block_size, device=device)
    return AttentionPlan(total=total, block_mask=mask)


def plan_sdpa(lengths: Sequence[int], total: int | None = None) -> AttentionPlan:
    """Documents in stream order; neighbours of equal length become one batch."""
    groups: list[Group] = []
    start = 0
    for length in lengths:
        if groups and groups[-1].length == length:
            groups[-1] = groups[-1]._replace(documents=groups[-1].documents + 1)
        else:
            groups.append(Group(start, 1, length))
        start += length
    return AttentionPlan(total=start if total is None else total, groups=tuple(groups))


def position_bias(table: Tensor, plan: AttentionPlan, dtype: torch.dtype) -> PositionBias:
    """What attention needs of a (H, 2R + 1) table under this plan."""
    if plan.block_mask is not None:
        return PositionBias(table, None)
    positions = torch.arange(min(plan.longest, DENSE_BIAS_LIMIT), device=table.device)
    return PositionBias(table, bias_between(table, positions, positions).to(dtype))


def attend_flex(qkv: Tensor, bias: PositionBias, plan: AttentionPlan, num_heads: int) -> Tensor:
    """(T, 3 H D) -> (T, H D) under the plan's block mask.

    Flex on CPUs gives zeros for a row of NaN scores, which would hide an overflow. So a query, key or value too
    large for the scores turns the whole stream to NaN, and the caller encodes its texts one by one.
    """
    table, reach = bias.table, bias.table.shape[-1] // 2
    query, key, value = rearrange(qkv, "t (three h d) -> three 1 h t d", three=3, h=num_heads)

    def add_bias(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return score + table[head, torch.clamp(column - row, -reach, reach) + reach]

    attended = flex_attention(query, key, value, score_mod=add_bias, block_mask=plan.block_mask, scale=1.0)
    assert isinstance(attended, Tensor)
    overflow = poison(qkv.float().square().sum())
    return rearrange(attended, "1 h t d -> t (h d)") + overflow.to(qkv.dtype)


def attend_sdpa(qkv: Tensor, bias: PositionBias, plan: AttentionPlan, num_heads: int) -> Tensor:
    """(T, 3 H D) -> (T, H D), group by group; tokens in no group get zeros."""
    attended = qkv.new_zeros(qkv.shape[0], qkv.shape[1] // 3)
    for start, documents, length in plan.groups:
        rows = slice(start, start + documents * length)
        split = rearrange(qkv[rows], "(n s) (three h d) -> three n h s d", three=3, n=documents, h=num_heads)
        result = _attend_long(split, bias.table) if length > DENSE_BIAS_LIMIT else _attend_batch(split, bias.dense)
        attended[rows] = rearrange(result, "n h s d -> (n s) (h d)")
    return attended


def _attend_batch(qkv: Tensor, dense: Tensor | None) -> Tensor:
    query, key, value = qkv
    length = query.shape[-2]
    assert dense is not None
    return F.scaled_dot_product_attention(query, key, value, attn_mask=dense[None, :, :length, :length], scale=1.0)


def _attend_long(qkv: Tensor, table: Tensor) -> Tensor:
    """(3, N, H, S, D) -> (N, H, S, D), a block of queries at a time, so that memory grows with S alone."""
    query, key, value = qkv
    positions = torch.arange(query.shape[-2], device=table.device)
    parts = []
    for rows in torch.split(positions, DENSE_BIAS_LIMIT):
        bias = bias_between(table, rows, positions).to(query.dtype)
        parts.append(F.scaled_dot_product_attention(query[..., rows, :], key, value, attn_mask=bias[None], scale=1.0))
    return torch.cat(parts, dim=-2)


class Attention(nn.Module):
    """Self-attention with one product for queries, keys and values; adds its result to the residual."""

    def __init__(self, model_dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(model_dim, 3 * num_heads * head_dim)
        self.output = ResidualLinear(num_heads * head_dim, model_dim)

    def forward(self, hidden: Tensor, residual: Tensor, bias: PositionBias, plan: AttentionPlan) -> Tensor:
        """(T, M) in the compute dtype and the (T, M) float32 residual -> the new residual."""
        attend = attend_sdpa if plan.block_mask is None else attend_flex
        attended = attend(self.qkv(hidden), bias, plan, self.num_heads)
        scale = input_scale(attended.dtype)
        return self.output(attended if scale == 1.0 else attended * scale, residual)  # type: ignore[no-any-return]
