"""The encoder: a flat stream of tokens in, hidden states out.

T tokens in the stream, M model dim, H heads, L layers, R reach of the bias.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from t5enc.attention import AttentionPlan, PositionBias, position_bias
from t5enc.bias import RelativeBias
from t5enc.config import EncoderConfig
from t5enc.layers import Block, RMSNorm
from t5enc.linear import Linear
from t5enc.precision import poison

RunBlock = Callable[[Block, Tensor, PositionBias, AttentionPlan, torch.dtype], Tensor]


def run_block(block: Block, residual: Tensor, bias: PositionBias, plan: AttentionPlan, dtype: torch.dtype) -> Tensor:
    """What is compiled: a block's arithmetic, with all that differs between layers passed in."""
    return block(residual, bias, plan, dtype)  # type: ignore[no-any-return]


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
        run: RunBlock = run_block if plan.block_mask is None else self.compiled
        tables = self.relative_bias()
        shared = None if self.config.bias_per_layer else position_bias(tables[0], plan, self.dtype)
        for layer, block in enumerate(self.blocks):
            bias = position_bias(tables[layer], plan, self.dtype) if shared is None else shared
            hidden = run(block, hidden, bias, plan, self.dtype)  # type: ignore[arg-type]
        # A norm whose sum of squares overflows gives zeros.
        overflow = poison(hidden.square().sum(-1, keepdim=True))
        return self.final_norm(hidden, torch.float32) + overflow  # type: ignore[no-any-return]

    def pack(self) -> None:
        """Trade the linear weights for oneDNN's layout: inference on this CPU only, no state dict any more."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack()


class CompiledBlock:
    """`run_block`, compiled once for all layers; counts the graphs that were made.

    Stream lengths come in few rungs, and every rung is one static graph. The limit on recompiles is this
    encoder's own where torch can isolate it, and in any case far above the number of rungs.
    """

    LIMIT = 64

    def __init__(self) -> None:
        self.graphs = 0
        self._run: RunBlock | None = None

    def __call__(
        self, block: Block, residual: Tensor, bias: PositionBias, plan: AttentionPlan, dtype: torch.dtype
    ) -> Tensor:
        if self._run is None:
            self._run = self._compile()
        return self._run(block, residual, bias, plan, dtype)

    def _compile(self) -> RunBlock:
        options: dict[str, Any] = {"recompile_limit": self.LIMIT, "isolate_recompiles": True}
        known = inspect.signature(torch.compile).parameters
        if "recompile_limit" not in known:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, self.LIMIT)
        accepted = {name: value for name, value in options.items() if name in known}
        return torch.compile(run_block, backend=self._backend, fullgraph=True, dynamic=False, **accepted)

    def _backend(self, graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        self.graphs += 1
        return cast("Callable[..., Any]", compile_fx(graph, list(inputs)))


def _empty(config: EncoderConfig) -> Tensor:
    """nn.Embedding would fill its own weight at random first: seconds for 250,000 tokens."""
    return torch.empty(config.vocab_size, config.model_dim)
