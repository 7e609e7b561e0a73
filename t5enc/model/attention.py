"""Attention over a flat stream of documents, two functions of one signature, and over a padded batch.

T tokens in the stream, H heads, D head dim, N documents of one length, S their length, R reach of the bias.

`attend_flex` is one compiled kernel under the document mask. `attend_sdpa` views documents of equal length, which
stand side by side in the stream, as a small batch: no pads, no masks, no compiler, and the faster one on CPUs.
`attend_padded` is for callers who pad, B batch; it takes any mask, and dropout in training.
There is no 1/sqrt(D) in them: T5 is trained with that factor inside its weights (Raffel et al. 2020), unless the
config says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from t5enc.config import EncoderConfig
from t5enc.model.bias import bias_between
from t5enc.model.linear import Linear, add_product
from t5enc.model.masks import document_mask, number_batch, number_mask
from t5enc.model.precision import input_scale, poison, residual_dtype

# Longer documents get their bias in rows of this many queries instead of one (H, S, S) matrix.
DENSE_BIAS_LIMIT = 1024
# A padded batch's bias with more elements than this is made in pieces.
DENSE_BATCH_LIMIT = 1 << 28


class Group(NamedTuple):
    """Some `documents` of `length` tokens each, from token `start` of the stream on.

    The first `keys` tokens of a document are what all of them attend to; the others are pads.
    """

    start: int
    documents: int
    length: int
    keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """Who attends to whom.

    In a stream: a block mask for Flex, or groups of equal length for SDPA. In a padded batch: `is_padded`, with a mask
    that broadcasts to (B, H, S, S), of booleans or of numbers to add.

    A query that sees no key gets, as softmax over equal scores has it, the mean of its row: `keyless` marks such
    queries (T,) of a Flex stream, and `has_keys`, (B, 1, S or 1, 1), is 0 there and else 1 where the dtype is too
    narrow for a mask to make all scores equal. Where `weights` is a list, each layer appends its attention weights,
    which takes the eager path.
    """

    total: int
    groups: tuple[Group, ...] = ()
    block_mask: BlockMask | None = None
    keyless: Tensor | None = None
    is_padded: bool = False
    mask: Tensor | None = None
    has_keys: Tensor | None = None
    is_eager: bool = False
    weights: list[Tensor] | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> AttentionPlan:
        """The same on a device: accelerate moves the arguments of each block to where the block is."""
        tensors = {name: getattr(self, name) for name in ("block_mask", "keyless", "mask", "has_keys")}
        moved = {name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **moved)

    @property
    def longest(self) -> int:
        """Length of the longest document that SDPA will see."""
        return max([0, *(group.length for group in self.groups)])


class PositionBias(NamedTuple):
    """The bias of one table: over distances, and for SDPA also as a matrix that every length is a corner of."""

    table: Tensor  # (H, 2R + 1), float32
    # In the compute dtype: (H, S, S) of the longest document up to the limit, or (B or 1, H, S, S), mask included.
    dense: Tensor | None


def plan_flex(
    lengths: Sequence[int],
    total: int,
    *,
    block_size: int,
    device: torch.device,
    keys: Sequence[int] | None = None,
) -> AttentionPlan:
    """Documents in stream order, the stream padded to `total` tokens; `keys` as for `plan_sdpa`."""
    mask = document_mask(lengths, total, block_size=block_size, device=device, keys=keys)
    return AttentionPlan(total=total, block_mask=mask)


def plan_sdpa(lengths: Sequence[int], total: int | None = None, *, keys: Sequence[int] | None = None) -> AttentionPlan:
    """Documents in stream order; neighbours of equal length become one batch.

    `keys` says how many tokens of each document are attended to, all of them by default: those after are its pads.
    """
    groups: list[Group] = []
    start = 0
    for length, seen in zip(lengths, keys or lengths, strict=True):
        if groups and groups[-1][2:] == (length, seen):
            groups[-1] = groups[-1]._replace(documents=groups[-1].documents + 1)
        else:
            groups.append(Group(start, 1, length, seen))
        start += length
    return AttentionPlan(total=start if total is None else total, groups=tuple(groups))


def plan_padded(
    batch: int,
    length: int,
    mask: Tensor | None,
    dtype: torch.dtype,
    *,
    is_eager: bool = False,
    weights: list[Tensor] | None = None,
) -> AttentionPlan:
    """A batch of B rows of S tokens that computes in `dtype`; `mask` broadcasts to (B, H, S, S)."""
    is_narrow = dtype == torch.float16 and mask is not None and mask.dtype == torch.bool
    return AttentionPlan(
        total=batch * length,
        groups=(Group(0, batch, length, length),),
        is_padded=True,
        mask=mask,
        has_keys=mask.any(-1, keepdim=True).to(dtype) if is_narrow and mask is not None else None,
        is_eager=is_eager,
        weights=weights,
    )


def plan_flex_batch(
    mask: Tensor | None, batch: int, length: int, total: int, device: torch.device
) -> AttentionPlan | None:
    """A batch of B rows of S tokens end to end in a stream of `total` tokens, for a mask as `plan_padded` has it.

    None for a mask that differs between heads, holds numbers to add, or is no packing of documents.
    """
    if mask is not None and (mask.dtype != torch.bool or mask.shape[1] != 1):
        return None
    seen = None if mask is None else mask[:, 0].expand(batch, -1, -1).cpu().numpy()
    numbers = number_batch(seen[:, 0] if seen is not None and seen.shape[1] == 1 else seen, batch, length, total)
    if numbers is None:
        return None
    block_mask = number_mask(numbers, block_size=flex_block_size(device), device=device)
    keyless = None if numbers.keyless is None else torch.from_numpy(numbers.keyless).to(device)
    return AttentionPlan(total=total, block_mask=block_mask, keyless=keyless)


def flex_block_size(device: torch.device) -> int:
    """Smaller mask blocks skip more of a stream of short documents; CUDA's kernels want 128."""
    return 64 if device.type == "cpu" else 128


def position_bias(table: Tensor, plan: AttentionPlan, dtype: torch.dtype) -> PositionBias:
    """What attention needs of a (H, 2R + 1) table under this plan."""
    if plan.block_mask is not None:
        return PositionBias(table, None)
    if plan.is_padded:
        return PositionBias(table, _mask_bias(table, plan, dtype) if _fits_dense(table, plan) else None)
    positions = torch.arange(min(plan.longest, DENSE_BIAS_LIMIT), device=table.device)
    return PositionBias(table, bias_between(table, positions, positions).to(dtype))


def _fits_dense(table: Tensor, plan: AttentionPlan) -> bool:
    rows = 1 if plan.mask is None else plan.mask.shape[0]
    return plan.is_eager or rows * table.shape[0] * plan.longest**2 <= DENSE_BATCH_LIMIT


def _mask_bias(table: Tensor, plan: AttentionPlan, dtype: torch.dtype, rows: slice = slice(None)) -> Tensor:
    """(B or 1, H, rows, S): the bias of some queries with the mask in it.

    Masked scores are the dtype's lowest number, not -inf: a query without any key then sees all of them alike.
    """
    keys = torch.arange(plan.longest, device=table.device)
    bias = bias_between(table, keys[rows], keys).to(dtype)[None]
    if plan.mask is None:
        return bias
    mask, limits = plan.mask if plan.mask.shape[-2] == 1 else plan.mask[..., rows, :], torch.finfo(dtype)
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, limits.min)
    wide = residual_dtype(dtype)
    return (bias.to(wide) + mask.to(wide)).clamp(limits.min, limits.max).to(dtype)


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
        masks = (_mask_bias(bias.table, plan, query.dtype, piece) for piece in pieces)
        attended = torch.cat(
            [attend(query[..., piece, :], attn_mask=mask) for piece, mask in zip(pieces, masks, strict=True)], dim=-2
        )
    return rearrange(attended, "b h s d -> b s (h d)")


def attend_eager(
    qkv: Tensor, bias: PositionBias, plan: AttentionPlan, num_heads: int, scale: float = 1.0, dropout: float = 0.0
) -> Tensor:
    """The same by plain products, which leaves the attention weights (B, H, S, S) in `plan.weights`."""
    query, key, value = _split_heads(qkv, plan, num_heads)
    assert bias.dense is not None
    wide = residual_dtype(query.dtype)
    scores = query.to(wide) @ key.to(wide).transpose(-1, -2) * scale + bias.dense
    weights = F.dropout(scores.softmax(dim=-1), dropout).to(query.dtype)
    if plan.weights is not None:
        plan.weights.append(weights)
    attended = rearrange(weights @ value, "b h s d -> b s (h d)")
    assert isinstance(attended, Tensor)
    return attended


def _split_heads(qkv: Tensor, plan: AttentionPlan, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, S, 3 H D) -> three times (B, H, S, D)."""
    query, key, value = rearrange(qkv, "b s (three h d) -> three b h s d", three=3, h=num_heads)
    return query if plan.has_keys is None else query * plan.has_keys, key, value


class Attention(nn.Module):
    """Self-attention with one product for queries, keys and values; adds its result to the residual."""

    def __init__(self, config: EncoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.scale = config.logit_scale
        self.dropout = dropout
        self.qkv = Linear(config.model_dim, 3 * config.inner_dim)
        self.qkv.gains = (1.0 if config.scale_logits else config.head_dim**-0.5, 1.0, 1.0)
        self.output = Linear(config.inner_dim, config.model_dim)

    def forward(self, hidden: Tensor, residual: Tensor, bias: PositionBias, plan: AttentionPlan) -> Tensor:
        """(T, M) in the compute dtype and the (T, M) residual -> the new residual; (B, S, M) if padded."""
        dropout = self.dropout if self.training else 0.0
        attended = self._attend(self.qkv(hidden), bias, plan, dropout)
        scale = input_scale(attended.dtype)
        return add_product(self.output, attended if scale == 1.0 else attended * scale, residual, dropout)

    def _attend(self, qkv: Tensor, bias: PositionBias, plan: AttentionPlan, dropout: float) -> Tensor:
        """Queries, keys and values -> what attention makes of them, by the plan's own path."""
        heads, scale = self.num_heads, self.scale
        if plan.is_padded:
            attend = attend_eager if plan.is_eager else attend_padded
            return attend(qkv, bias, plan, heads, scale, dropout)
        if plan.block_mask is not None:
            return attend_flex(qkv, bias, plan, heads, scale)
        return attend_sdpa(qkv, bias, plan, heads, scale)
