"""The encoder: a flat stream of tokens in, hidden states out.

T tokens in the stream, M model dim, H heads, L layers, R reach of the bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t5enc.config import EncoderConfig
from t5enc.model.attention import AttentionPlan, position_bias
from t5enc.model.bias import RelativeBias
from t5enc.model.compile import CompiledBlock
from t5enc.model.layers import Block, RMSNorm
from t5enc.model.linear import Linear
from t5enc.model.precision import poison


class Encoder(nn.Module):
    """A T5-family encoder over streams of documents.

    Build it on the meta device and fill it with `weights.load_weights`; `dtype` is what its products compute in.
    """

    def __init__(self, config: EncoderConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.embedding = nn.Embedding(config.vocab_size, config.model_dim, _weight=_empty(config))
        self.relative_bias = RelativeBias(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = RMSNorm(config.model_dim, config.norm_eps)
        self.compiled = CompiledBlock()

    def embed(self, ids: Tensor) -> Tensor:
        """(T,) token ids -> (T, M) float32, the start of the residual stream."""
        return self.embedding(ids).float()  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor, plan: AttentionPlan) -> Tensor:
        """(T, M) embeddings -> (T, M) float32 hidden states after the final norm.

        A plan with a block mask runs the compiled block, one with groups the plain one.
        """
        run = None if plan.block_mask is None else self.compiled
        tables = self.relative_bias()
        shared = None if self.config.bias_per_layer else position_bias(tables[0], plan, self.dtype)
        for layer, block in enumerate(self.blocks):
            bias = position_bias(tables[layer], plan, self.dtype) if shared is None else shared
            hidden = block(hidden, bias, plan, self.dtype, run)
        # A norm whose sum of squares overflows gives zeros.
        overflow = poison(hidden.square().sum(-1, keepdim=True))
        return self.final_norm(hidden, torch.float32) + overflow  # type: ignore[no-any-return]

    def pack(self) -> None:
        """Trade the linear weights for oneDNN's layout: inference on this CPU only, no state dict any more."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack()


def _empty(config: EncoderConfig) -> Tensor:
    """nn.Embedding would fill its own weight at random first: seconds for 250,000 tokens."""
    return torch.empty(config.vocab_size, config.model_dim)
