"""Norm scales multiplied into the layers that follow them, and taken out again.

Optional and off: it saves a multiplication per norm, and costs accuracy in 16 bit, where every fused weight is rounded
once more. Elementwise, so O(weights); the scales are remembered, so that a fused model is saved as it was, within that
rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from t5enc.errors import CheckpointError
from t5enc.layers import Block, RMSNorm
from t5enc.linear import Linear


def list_fusions(block: Block) -> Iterator[tuple[RMSNorm, Linear]]:
    """The norms of a block that a layer follows at once, each with it; the final norm has none."""
    yield block.attention_norm, block.attention.qkv
    yield block.feed_forward_norm, block.feed_forward.up


@torch.no_grad()
def fuse_norms(blocks: Iterable[nn.Module]) -> None:
    """Multiply each norm's scale into the next weight's columns.

    CheckpointError where a scale is zero, which could not be taken out again, or a weight leaves its dtype's range.
    """
    for block in blocks:
        assert isinstance(block, Block)
        for norm, linear in list_fusions(block):
            if norm.weight is not None:
                _fuse(norm, norm.weight, linear)


def expect_fused_norms(blocks: Iterable[nn.Module]) -> None:
    """Make a new model's norms as `fuse_norms` leaves them, for weights that were stored fused."""
    for block in blocks:
        assert isinstance(block, Block)
        for norm, _ in list_fusions(block):
            if norm.weight is not None:
                norm.fused_scale = torch.ones_like(norm.weight, requires_grad=False)
                norm.weight = None


def _fuse(norm: RMSNorm, scale: Tensor, linear: Linear) -> None:
    fused = (linear.weight.float() * scale.float()).to(linear.weight.dtype)
    if not scale.all() or not fused.isfinite().all():
        raise CheckpointError("norm fusion: expected scales other than zero and products in the weights' range")
    linear.weight.copy_(fused)
    norm.fused_scale = scale.detach().clone()
    norm.weight = None


@torch.no_grad()
def unfuse_norms(blocks: Iterable[nn.Module]) -> None:
    """Undo `fuse_norms`."""
    for block in blocks:
        assert isinstance(block, Block)
        for norm, linear in list_fusions(block):
            if isinstance(norm.fused_scale, Tensor):
                linear.weight.copy_(divide_scale(linear.weight, norm.fused_scale))
                norm.weight = nn.Parameter(norm.fused_scale, requires_grad=linear.weight.requires_grad)
                norm.fused_scale = None


def divide_scale(weight: Tensor, scale: Tensor) -> Tensor:
    """A fused weight as it was before, within rounding."""
    return (weight.float() / scale.float()).to(weight.dtype)
