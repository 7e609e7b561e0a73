"""The loop over layers: the same numbers with and without checkpoints, and biases made no more often than needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from t5enc.checkpoint.builtin import open_builtin
from t5enc.model import layer_loop
from t5enc.model.attention.plan import AttentionPlan, plan_padded, plan_sdpa
from t5enc.model.encoder import Encoder
from t5enc.model.initialization import initialize_all
from t5enc.model.layer_loop import layer_biases, run_blocks

CONFIG = open_builtin("tiny").config


def make(*, bias_per_layer: bool = False) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(replace(CONFIG, bias_per_layer=bias_per_layer))
    initialize_all(encoder)
    return encoder


def run(encoder: Encoder, hidden: Tensor, plan: AttentionPlan, **options: object) -> list[Tensor]:
    biases = layer_biases(encoder.relative_bias(), encoder.config, plan, torch.float32)
    return list(run_blocks(encoder.blocks, hidden, biases, plan, torch.float32, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("bias_per_layer", [False, True])
def test_the_last_residual_is_what_the_encoder_norms(bias_per_layer: bool) -> None:
    encoder, plan, hidden = make(bias_per_layer=bias_per_layer), plan_sdpa([3, 4]), torch.randn(7, CONFIG.model_dim)
    residuals = run(encoder, hidden, plan)
    assert len(residuals) == CONFIG.num_layers
    assert torch.equal(encoder.final_norm(residuals[-1], torch.float32), encoder(hidden, plan))


@pytest.mark.parametrize("bias_per_layer", [False, True])
def test_a_bias_that_layers_share_is_made_once(bias_per_layer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    position_bias = layer_loop.position_bias

    def watch(table: Tensor, plan: AttentionPlan, dtype: torch.dtype) -> object:
        made.append(table)
        return position_bias(table, plan, dtype)

    monkeypatch.setattr(layer_loop, "position_bias", watch)
    run(make(bias_per_layer=bias_per_layer), torch.randn(3, CONFIG.model_dim), plan_sdpa([3]))
    assert len(made) == (CONFIG.num_layers if bias_per_layer else 1)


def test_an_eager_plan_hands_out_each_layers_attention_weights() -> None:
    weights: list[Tensor] = []
    plan = plan_padded(2, 5, None, torch.float32, is_eager=True)
    run(make(), torch.randn(2, 5, CONFIG.model_dim), plan, keep_weights=weights.append)
    assert [tuple(one.shape) for one in weights] == [(2, CONFIG.num_heads, 5, 5)] * CONFIG.num_layers
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, CONFIG.num_heads, 5))
