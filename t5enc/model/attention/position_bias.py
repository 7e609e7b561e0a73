"""What a layer's attention needs of its bias table under a plan: the table for Flex, a matrix for SDPA.

H heads, R reach of the bias, B batch, S sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from t5enc.model.attention.bias import bias_between
from t5enc.model.attention.plan import AttentionPlan
from t5enc.model.precision import residual_dtype

# Longer documents get their bias in rows of this many queries instead of one (H, S, S) matrix.
DENSE_BIAS_LIMIT = 1024
# A padded batch's bias with more elements than this is made in pieces.
DENSE_BATCH_LIMIT = 1 << 28


class PositionBias(NamedTuple):
    """The bias of one table: over distances, and for SDPA also as a matrix that every length is a corner of."""

    table: Tensor  # (H, 2R + 1), float32
    # In the compute dtype: (H, S, S) of the longest document up to the limit, or (B or 1, H, S, S), mask included.
    dense: Tensor | None


def position_bias(table: Tensor, plan: AttentionPlan, dtype: torch.dtype) -> PositionBias:
    """What attention needs of a (H, 2R + 1) table under this plan."""
    if plan.block_mask is not None:
        return PositionBias(table, None)
    if plan.is_padded:
        return PositionBias(table, masked_bias(table, plan, dtype) if _fits_dense(table, plan) else None)
    positions = torch.arange(min(plan.longest, DENSE_BIAS_LIMIT), device=table.device)
    return PositionBias(table, bias_between(table, positions, positions).to(dtype))


def _fits_dense(table: Tensor, plan: AttentionPlan) -> bool:
    rows = 1 if plan.mask is None else plan.mask.shape[0]
    return plan.is_eager or rows * table.shape[0] * plan.longest**2 <= DENSE_BATCH_LIMIT


def masked_bias(table: Tensor, plan: AttentionPlan, dtype: torch.dtype, rows: slice = slice(None)) -> Tensor:
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
