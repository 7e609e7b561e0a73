"""Norm, feed-forward and block of the encoder.

T tokens in the stream (or B batch, S sequence: norms and products take any leading dimensions), M model dim, F
feed-forward dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t5enc.config import EncoderConfig
from t5enc.errors import InputError
from t5enc.model.attention.plan import AttentionPlan
from t5enc.model.attention.position_bias import PositionBias
from t5enc.model.attention.self_attention import KeepWeights, SelfAttention
from t5enc.model.linear import Linear, activate_product, add_product
from t5enc.model.precision import residual_dtype

ComputeBlock = Callable[["Block", Tensor, PositionBias, AttentionPlan, torch.dtype], Tensor]


class RMSNorm(nn.Module):
    """Root mean square norm without mean or bias (Zhang and Sennrich 2019), computed in the residual's dtype.

    A norm whose scale was multiplied into the layer that follows has no weight; `fused_scale` remembers it.
    """

    def __init__(self, model_dim: int, eps: float) -> None:
        super().__init__()
        self.shape = (model_dim,)
        self.eps = eps
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(model_dim))
        self.fused_scale: Tensor | None
        self.register_buffer("fused_scale", None)

    def forward(self, hidden: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(T, M) of the residual -> (T, M) in `dtype`; without one, of any dtype -> in the weight's."""
        if dtype is None:
            dtype = hidden.dtype if self.weight is None else self.weight.dtype
            hidden = hidden.to(residual_dtype(hidden.dtype))
        scale = None if self.weight is None else self.weight.to(hidden.dtype)
        return F.rms_norm(hidden, self.shape, scale, self.eps).to(dtype)


class FeedForward(nn.Module):
    """Up, activate (and gate), down; adds its result to the residual."""

    def __init__(self, config: EncoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.activation = config.activation
        self.pieces = 2 if config.is_gated else 1
        self.dropout = dropout
        self.up = Linear(config.model_dim, config.ff_dim, pieces=self.pieces)
        self.down = Linear(config.ff_dim, config.model_dim)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """(T, M) in the compute dtype and the (T, M) residual -> the new residual."""
        dropout = self.dropout if self.training else 0.0
        inner = activate_product(self.up, hidden, self.activation, self.pieces)
        return add_product(self.down, F.dropout(inner, dropout) if dropout else inner, residual, dropout)


class Block(nn.Module):
    """One layer: norm, attention, norm, feed-forward, around the residual."""

    def __init__(self, config: EncoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.model_dim, config.norm_eps)
        self.attention = SelfAttention(config, dropout)
        self.feed_forward_norm = RMSNorm(config.model_dim, config.norm_eps)
        self.feed_forward = FeedForward(config, dropout)

    def forward(
        self,
        residual: Tensor,
        table: Tensor,
        dense: Tensor | None,
        plan: AttentionPlan,
        dtype: torch.dtype,
        compiled: ComputeBlock | None = None,
        keep_weights: KeepWeights | None = None,
    ) -> Tensor:
        """(T, M) -> (T, M); `dtype` is what the products compute in, `compiled` a compiled `compute_block`.

        What is compiled is called in here, so that hooks on blocks stay outside the graph. The two of a `PositionBias`
        come one by one, since activation checkpoints see only tensors that are arguments. `keep_weights` is given the
        attention weights of an eager plan, which is not compiled.
        """
        if residual.dtype != residual_dtype(dtype):
            raise InputError(
                f"residual: expected {residual_dtype(dtype)} beside {dtype} products, got {residual.dtype}; FSDP's "
                f"MixedPrecisionPolicy has to have cast_forward_inputs=False"
            )
        bias = PositionBias(table, dense)
        if compiled is not None:
            return compiled(self, residual, bias, plan, dtype)
        return compute_block(self, residual, bias, plan, dtype, keep_weights)


def compute_block(
    block: Block,
    residual: Tensor,
    bias: PositionBias,
    plan: AttentionPlan,
    dtype: torch.dtype,
    keep_weights: KeepWeights | None = None,
) -> Tensor:
    """A block's arithmetic, with all that differs between layers passed in: what is compiled."""
    residual = block.attention(block.attention_norm(residual, dtype), residual, bias, plan, keep_weights)
    return block.feed_forward(block.feed_forward_norm(residual, dtype), residual)  # type: ignore[no-any-return]
