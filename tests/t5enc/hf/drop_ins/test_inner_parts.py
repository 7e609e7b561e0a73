"""What programs do with the parts of a text encoder: skip layers, swap its config, quantize it, build it in."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from t5enc.errors import ConfigError
from tests.families import FAMILIES
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import Pair, draw_batch, encode, load, relative
from tests.t5enc.reference import ROUNDING


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_final_norm_of_an_earlier_state_is_transformers(dtype: torch.dtype, pair: Pair) -> None:
    found = []
    for model in (pair.ours.to(dtype), pair.theirs.to(dtype)):
        state = pair.theirs(*draw_batch(), output_hidden_states=True).hidden_states[-2].to(dtype)
        found.append(model.encoder.final_layer_norm(state))
    assert found[0].dtype == dtype
    assert relative(*found) < (ROUNDING if dtype == torch.float32 else 1e-2)


def test_a_config_that_chooses_no_attention_gets_the_default(pair: Pair) -> None:
    expected = encode(pair.ours, *draw_batch())
    config = type(pair.ours.config).from_pretrained(pair.folder)
    assert config._attn_implementation is None
    pair.ours.config = pair.ours.encoder.config = config
    assert torch.equal(encode(pair.ours, *draw_batch()), expected)


class Composite(transformers.PreTrainedModel):  # type: ignore[misc]
    """A model that has a text encoder, as MusicGen and Parler-TTS have."""

    config_class = transformers.PretrainedConfig
    base_model_prefix = "composite"

    def __init__(self, config: Any, text_encoder: nn.Module) -> None:
        super().__init__(config)
        self.text_encoder = text_encoder
        self.head = nn.Linear(4, 2)
        self.all_tied_weights_keys: dict[str, str] = {}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_around_it_is_saved_in_transformers_names(family: str, make: Make, tmp_path: Path) -> None:
    folder, theirs = make(family)
    Composite(transformers.PretrainedConfig(), load(family, folder)).save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    expected = {f"text_encoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    assert {name for name in expected if "embed_tokens" not in name} <= set(written) - {"head.weight", "head.bias"}
    assert all(torch.equal(written[name], expected[name]) for name in set(written) & set(expected))
    assert not [name for name in written if "qkv" in name or "wi\\" in name]


def test_dynamic_quantization_finds_every_linear_layer(pair: Pair) -> None:
    expected = encode(pair.ours, *draw_batch())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that this way of quantizing will go
        quantized = torch.ao.quantization.quantize_dynamic(pair.ours, {nn.Linear}, dtype=torch.qint8)
    in_int8 = [module for module in quantized.modules() if isinstance(module, torch.ao.nn.quantized.dynamic.Linear)]
    assert len(in_int8) == 4 * 3
    assert ROUNDING < relative(encode(quantized, *draw_batch()), expected) < 0.2
    assert torch.equal(encode(pair.ours, *draw_batch()), expected)


def test_float8_is_refused_by_name(pair: Pair) -> None:
    for dtype in (torch.float8_e4m3fn, "float8_e5m2"):
        with pytest.raises(ConfigError, match=r"^dtype: expected float32, .*, got (torch\.)?float8_e"):
            type(pair.ours).from_pretrained(pair.folder, dtype=dtype)
    with pytest.raises(ConfigError, match=r"^dtype: expected float32, .*, got torch\.float8_e4m3fn"):
        encode(copy.deepcopy(pair.ours).to(torch.float8_e4m3fn), *draw_batch())


def test_an_epsilon_of_one_and_more_is_computed(make: Make) -> None:
    folder, theirs = make("t5_v1_1", layer_norm_epsilon=2.5)
    found = encode(load("t5_v1_1", folder), *draw_batch())
    assert relative(found, encode(theirs, *draw_batch())) < ROUNDING
    assert relative(found, encode(load("t5_v1_1", make().folder), *draw_batch())) > 0.1


def test_each_block_is_a_layer_that_transformers_can_checkpoint(pair: Pair) -> None:
    layers = [module for module in pair.ours.modules() if isinstance(module, GradientCheckpointingLayer)]
    assert layers == list(pair.ours.encoder.block)
    pair.ours.activation_checkpointing_enable()
    assert pair.ours.is_activation_checkpointing
    pair.ours.activation_checkpointing_disable()
    assert not pair.ours.is_activation_checkpointing
