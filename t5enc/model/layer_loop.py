"""The one loop over layers: each block with its own bias; whoever runs it sees the hidden states after each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from t5enc.config import EncoderConfig
from t5enc.model.attention.plan import AttentionPlan
from t5enc.model.attention.position_bias import PositionBias, position_bias
from t5enc.model.attention.self_attention import KeepWeights
from t5enc.model.layers import ComputeBlock


def layer_biases(
    tables: Tensor, config: EncoderConfig, plan: AttentionPlan, dtype: torch.dtype
) -> Iterator[PositionBias]:
    """The bias of each layer, from (L or 1, H, 2R + 1) tables; `dtype` is that of queries and keys.

    One for all layers is made once, one of each layer when its turn comes.
    """
    shared = None if config.bias_per_layer else position_bias(tables[0], plan, dtype)
    for layer in range(config.num_layers):
        yield position_bias(tables[layer], plan, dtype) if shared is None else shared


def run_blocks(
    blocks: nn.ModuleList,
    hidden: Tensor,
    biases: Iterable[PositionBias],
    plan: AttentionPlan,
    dtype: torch.dtype,
    *,
    compiled: ComputeBlock | None = None,
    keep_weights: KeepWeights | None = None,
) -> Iterator[Tensor]:
    """The residual after each block, of a (T, M) residual or a padded (B, S, M) one.

    `dtype` is what products compute in. Blocks run `compiled`, or step by step without it. `keep_weights` is given each
    block's attention weights. Blocks are called as modules, so that their hooks (offloading, sharding) run, outside of
    any graph.
    """
    for block, bias in zip(blocks, biases, strict=True):
        hidden = block(hidden, *bias, plan, dtype, compiled, keep_weights)
        yield hidden
