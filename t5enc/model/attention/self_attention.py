"""Self-attention as a module: one product for queries, keys and values, then the plan's own path.

T tokens in the stream (or B batch, S sequence), M model dim, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from t5enc.config import EncoderConfig
from t5enc.model.attention.flex import attend_flex
from t5enc.model.attention.padded import attend_eager, attend_padded
from t5enc.model.attention.plan import AttentionPlan
from t5enc.model.attention.position_bias import PositionBias
from t5enc.model.attention.sdpa import attend_sdpa
from t5enc.model.linear import Linear, add_product
from t5enc.model.precision import input_scale

# Takes what a layer's attention computed on the way, (B, H, S, S).
KeepWeights = Callable[[Tensor], None]


class SelfAttention(nn.Module):
    """Self-attention with one product for queries, keys and values; adds its result to the residual."""

    def __init__(self, config: EncoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.scale = config.logit_scale
        self.dropout = dropout
        self.qkv = Linear(config.model_dim, 3 * config.inner_dim)
        self.qkv.gains = (1.0 if config.scale_logits else config.head_dim**-0.5, 1.0, 1.0)
        self.output = Linear(config.inner_dim, config.model_dim)

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor,
        bias: PositionBias,
        plan: AttentionPlan,
        keep_weights: KeepWeights | None = None,
    ) -> Tensor:
        """(T, M) in the compute dtype and the (T, M) residual -> the new residual; (B, S, M) if padded.

        Under an eager plan `keep_weights` is given the attention weights (B, H, S, S).
        """
        dropout = self.dropout if self.training else 0.0
        attended = self._attend(self.qkv(hidden), bias, plan, dropout, keep_weights)
        scale = input_scale(attended.dtype)
        return add_product(self.output, attended if scale == 1.0 else attended * scale, residual, dropout)

    def _attend(
        self, qkv: Tensor, bias: PositionBias, plan: AttentionPlan, dropout: float, keep_weights: KeepWeights | None
    ) -> Tensor:
        """Queries, keys and values -> what attention makes of them, by the plan's own path."""
        heads, scale = self.num_heads, self.scale
        if plan.is_eager:
            attended, weights = attend_eager(qkv, bias, plan, heads, scale, dropout)
            if keep_weights is not None:
                keep_weights(weights)
            return attended
        if plan.is_padded:
            return attend_padded(qkv, bias, plan, heads, scale, dropout)
        if plan.block_mask is not None:
            return attend_flex(qkv, bias, plan, heads, scale)
        return attend_sdpa(qkv, bias, plan, heads, scale)
