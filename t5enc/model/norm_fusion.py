"""Norm scales multiplied into the layers that follow them, and taken out again.

Optional and off: it saves a multiplication per norm, and costs accuracy in 16 bit, where every fused weight is rounded
once more. Elementwise, so O(weights); the scales are remembered, so that a fused model is saved as it was, within that
rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from t5enc.errors import CheckpointError, ConfigError
from t5enc.model.layers import RMSNorm
from t5enc.model.linear import Linear
from t5enc.model.precision import residual_dtype

# The norms of a block that a layer follows at once, and that layer; the final norm has none.
FUSIONS = {"attention_norm": "attention.qkv", "feed_forward_norm": "feed_forward.up"}
SCALE = "fused_scale"


def list_fusions(blocks: Iterable[nn.Module]) -> Iterator[tuple[RMSNorm, Linear]]:
    """Each norm of the blocks with the layer that follows it; ConfigError for a layer that was replaced."""
    for block in blocks:
        for name, follower in FUSIONS.items():
            norm, linear = block.get_submodule(name), block.get_submodule(follower)
            if type(linear) is not Linear or not isinstance(norm, RMSNorm):
                found = type(linear).__name__
                raise ConfigError(f"{follower}: expected the model's own layer to fuse a norm into, got {found}")
            yield norm, linear


@torch.no_grad()
def fuse_norms(blocks: Iterable[nn.Module]) -> None:
    """Multiply each norm's scale into the next weight's columns.

    CheckpointError where a scale is zero, which could not be taken out again, or a weight leaves its dtype's range,
    ConfigError where weights are offloaded or layers replaced.
    """
    for norm, linear in list(list_fusions(blocks)):
        if norm.weight is not None:
            _fuse(norm, norm.weight, linear)


def expect_fused_norms(blocks: Iterable[nn.Module]) -> None:
    """Make a new model's norms as `fuse_norms` leaves them, for weights that were stored fused."""
    for norm, _ in list_fusions(blocks):
        if norm.weight is not None:
            norm.fused_scale = torch.ones_like(norm.weight, requires_grad=False)
            norm.weight = None


def _fuse(norm: RMSNorm, scale: Tensor, linear: Linear) -> None:
    if linear.weight.is_meta or scale.is_meta:
        raise ConfigError("norm fusion: expected weights in memory, got offloaded ones; remove the hooks")
    wide = residual_dtype(linear.weight.dtype)
    fused = (linear.weight.to(wide) * scale.to(wide)).to(linear.weight.dtype)
    if not scale.all() or not fused.isfinite().all():
        raise CheckpointError("norm fusion: expected scales other than zero and products in the weights' range")
    linear.weight.copy_(fused)
    norm.fused_scale = scale.detach().clone()
    norm.weight = None


@torch.no_grad()
def unfuse_norms(blocks: Iterable[nn.Module]) -> None:
    """Undo `fuse_norms`."""
    for norm, linear in list(list_fusions(blocks)):
        if isinstance(norm.fused_scale, Tensor):
            linear.weight.copy_(divide_scale(linear.weight, norm.fused_scale))
            norm.weight = nn.Parameter(norm.fused_scale, requires_grad=linear.weight.requires_grad)
            norm.fused_scale = None


def unfuse_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of fused norms as that of the model before, within rounding; others as they are."""
    plain = dict(tensors)
    for name, scale in tensors.items():
        block, _, norm = name.removesuffix(f".{SCALE}").rpartition(".")
        if name.endswith(f".{SCALE}"):
            weight = f"{block}.{FUSIONS[norm]}.weight"
            plain[weight] = divide_scale(tensors[weight], scale)
            plain[f"{block}.{norm}.weight"] = plain.pop(name)
    return plain


def divide_scale(weight: Tensor, scale: Tensor) -> Tensor:
    """A fused weight as it was before, within rounding."""
    wide = residual_dtype(weight.dtype)
    return (weight.detach().to(wide) / scale.to(wide)).to(weight.dtype)
