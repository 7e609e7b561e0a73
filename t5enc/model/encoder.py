"""The encoder: a flat stream of tokens in, hidden states out.

T tokens in the stream, M model dim, H heads, L layers, R reach of the bias.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from t5enc.config import EncoderConfig
from t5enc.model.attention.bias import RelativeBias
from t5enc.model.attention.plan import AttentionPlan
from t5enc.model.compile import CompiledBlock
from t5enc.model.layer_loop import layer_biases, run_blocks
from t5enc.model.layers import Block, RMSNorm
from t5enc.model.linear import Linear
from t5enc.model.precision import poison


class Encoder(nn.Module):
    """A T5-family encoder over streams of documents.

    `t5enc.checkpoint.weights.load_encoder` builds it on the meta device and fills it; `dtype` is what its products
    compute in.
    """

    def __init__(self, config: EncoderConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.embedding, self.relative_bias, self.blocks, self.final_norm = make_modules(config)
        self.compiled = CompiledBlock()

    def embed(self, ids: Tensor) -> Tensor:
        """(T,) token ids -> (T, M) float32, the start of the residual stream."""
        return self.embedding(ids).float()  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor, plan: AttentionPlan) -> Tensor:
        """(T, M) embeddings -> (T, M) float32 hidden states after the final norm.

        A plan with a block mask runs the compiled block, one with groups the plain one.
        """
        compiled = None if plan.block_mask is None else self.compiled
        biases = layer_biases(self.relative_bias(), self.config, plan, self.dtype)
        for residual in run_blocks(self.blocks, hidden, biases, plan, self.dtype, compiled=compiled):
            hidden = residual
        # A norm whose sum of squares overflows gives zeros.
        overflow = poison(hidden.square().sum(-1, keepdim=True))
        return self.final_norm(hidden, torch.float32) + overflow  # type: ignore[no-any-return]

    def pack(self) -> None:
        """Trade the linear weights for oneDNN's layout: inference on this CPU only, no state dict any more."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack()


def make_modules(
    config: EncoderConfig, dropout: float = 0.0, block: Callable[[EncoderConfig, float], Block] = Block
) -> tuple[nn.Embedding, RelativeBias, nn.ModuleList, RMSNorm]:
    """What an encoder consists of, weights not yet filled: embedding, bias tables, blocks and final norm."""
    # Given a weight, nn.Embedding does not fill its own at random first: seconds for 250,000 tokens.
    weight = torch.empty(config.vocab_size, config.model_dim)
    embedding = nn.Embedding(config.vocab_size, config.model_dim, _weight=weight)
    blocks = nn.ModuleList(block(config, dropout) for _ in range(config.num_layers))
    return embedding, RelativeBias(config), blocks, RMSNorm(config.model_dim, config.norm_eps)
