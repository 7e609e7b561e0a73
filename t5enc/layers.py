"""Norm, feed-forward and block of the encoder.

T tokens in the stream, M model dim, F feed-forward dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t5enc.attention import Attention, AttentionPlan, PositionBias
from t5enc.config import EncoderConfig
from t5enc.linear import ActivatedLinear, ResidualLinear


class RMSNorm(nn.Module):
    """Root mean square norm without mean or bias (Zhang and Sennrich 2019), computed in float32."""

    def __init__(self, model_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(model_dim))

    def forward(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """(T, M) float32 -> (T, M) in `dtype`."""
        return F.rms_norm(hidden, self.weight.shape, self.weight.float(), self.eps).to(dtype)


class FeedForward(nn.Module):
    """Up, activate (and gate), down; adds its result to the residual."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = ActivatedLinear(
            config.model_dim, config.ff_dim, activation=config.activation, is_gated=config.is_gated
        )
        self.down = ResidualLinear(config.ff_dim, config.model_dim)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """(T, M) in the compute dtype and the (T, M) float32 residual -> the new residual."""
        return self.down(self.up(hidden), residual)  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer: norm, attention, norm, feed-forward, around a float32 residual."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.model_dim, config.norm_eps)
        self.attention = Attention(config.model_dim, config.num_heads, config.head_dim)
        self.feed_forward_norm = RMSNorm(config.model_dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, residual: Tensor, bias: PositionBias, plan: AttentionPlan, dtype: torch.dtype) -> Tensor:
        """(T, M) float32 -> (T, M) float32; `dtype` is what the products compute in."""
        residual = self.attention(self.attention_norm(residual, dtype), residual, bias, plan)
        return self.feed_forward(self.feed_forward_norm(residual, dtype), residual)  # type: ignore[no-any-return]
