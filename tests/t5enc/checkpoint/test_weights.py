"""Loading: each tensor in its place, and an error that names what is missing, left over or of the wrong shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from t5enc.checkpoint.hf_names import name_weights
from t5enc.checkpoint.weights import load_encoder
from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError
from t5enc.model.attention.plan import plan_sdpa
from t5enc.model.encoder import Encoder
from tests.families import FAMILIES
from tests.t5enc.conftest import Make

CPU = torch.device("cpu")
FIRST = "encoder.block.0.layer"
QUERY = f"{FIRST}.0.SelfAttention.q.weight"
BIAS = f"{FIRST}.0.SelfAttention.relative_attention_bias.weight"

Weights = dict[str, Tensor]


def read(folder: Path) -> tuple[EncoderConfig, Weights]:
    config = EncoderConfig.from_hf(json.loads((folder / "config.json").read_text()))
    return config, load_file(folder / "model.safetensors")


@pytest.fixture
def checkpoint(make: Make) -> tuple[EncoderConfig, Weights]:
    """Config and weights of t5_v1_1."""
    return read(make("t5_v1_1").folder)


def load(config: EncoderConfig, weights: Weights, *, pack: bool = False, dtype: torch.dtype = torch.float32) -> Encoder:
    return load_encoder(config, weights, dtype=dtype, device=CPU, pack=pack)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_lies_in_one_parameter_and_none_is_left_empty(family: str, make: Make) -> None:
    config, weights = read(make(family).folder)
    encoder = load(config, weights)
    table = name_weights(config)
    assert sorted(part for parts in table.values() for part in parts) == sorted(weights)
    assert set(table) == {name for name, _ in encoder.named_parameters()}
    for name, parts in table.items():
        stacked = torch.cat([weights[part].reshape(-1) for part in parts])
        assert torch.equal(encoder.get_parameter(name).reshape(-1), stacked), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_cast_as_they_are_read(dtype: torch.dtype, checkpoint: tuple[EncoderConfig, Weights]) -> None:
    config, weights = checkpoint
    encoder = load(config, weights, dtype=dtype)
    assert {parameter.dtype for parameter in encoder.parameters()} == {dtype}
    assert torch.equal(encoder.get_parameter("embedding.weight"), weights["shared.weight"].to(dtype))


def test_packed_as_they_are_loaded_they_compute_the_same(checkpoint: tuple[EncoderConfig, Weights]) -> None:
    hidden = torch.randn(40, checkpoint[0].model_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, packed = (load(*checkpoint, pack=pack)(hidden, plan_sdpa([10, 30])) for pack in (False, True))
    torch.testing.assert_close(packed, plain, rtol=0, atol=1e-5)


def test_an_encoder_is_for_inference(checkpoint: tuple[EncoderConfig, Weights]) -> None:
    encoder = load(*checkpoint)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(tensor.is_meta for tensor in [*encoder.parameters(), *encoder.buffers()])


@pytest.mark.parametrize("name", ["shared.weight", QUERY, BIAS, f"{FIRST}.1.DenseReluDense.wi_1.weight"])
def test_a_missing_tensor_is_named(name: str, checkpoint: tuple[EncoderConfig, Weights]) -> None:
    config, weights = checkpoint
    del weights[name]
    with pytest.raises(CheckpointError, match=f"does not fit its config:\n  {name}: missing$"):
        load(config, weights)


@pytest.mark.parametrize("name", ["encoder.block.3.layer.0.layer_norm.weight", BIAS.replace("block.0", "block.1")])
def test_an_unexpected_tensor_is_named(name: str, checkpoint: tuple[EncoderConfig, Weights]) -> None:
    config, weights = checkpoint
    with pytest.raises(CheckpointError, match=f"does not fit its config:\n  {name}: unexpected$"):
        load(config, weights | {name: torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "expected", "found"),
    [
        (QUERY, (48, 64), (64, 48)),
        (BIAS, (32, 3), (32, 4)),
        ("shared.weight", (300, 64), (299, 64)),
        ("encoder.final_layer_norm.weight", (64,), (64, 1)),
        (f"{FIRST}.1.DenseReluDense.wo.weight", (64, 96), (64,)),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(
    name: str, expected: tuple[int, ...], found: tuple[int, ...], checkpoint: tuple[EncoderConfig, Weights]
) -> None:
    config, weights = checkpoint
    with pytest.raises(CheckpointError) as caught:
        load(config, weights | {name: torch.zeros(found)})
    assert f"{name}: expected {expected}, got {found}" in str(caught.value)


def test_all_that_is_wrong_is_named_at_once(checkpoint: tuple[EncoderConfig, Weights]) -> None:
    config, weights = checkpoint
    renamed = {name.replace("SelfAttention.q", "SelfAttention.query"): tensor for name, tensor in weights.items()}
    with pytest.raises(CheckpointError) as caught:
        load(config, renamed)
    assert str(caught.value).count("missing") == str(caught.value).count("unexpected") == config.num_layers


def test_integers_without_a_scale_are_refused(checkpoint: tuple[EncoderConfig, Weights]) -> None:
    config, weights = checkpoint
    with pytest.raises(CheckpointError, match=f"{QUERY}: expected floating point, got torch.int8"):
        load(config, weights | {QUERY: weights[QUERY].to(torch.int8)})


@pytest.mark.parametrize("names", [("shared.weight",), ("encoder.embed_tokens.weight",)])
def test_the_embedding_has_two_names(names: tuple[str, ...], checkpoint: tuple[EncoderConfig, Weights]) -> None:
    config, weights = checkpoint
    table = weights.pop("shared.weight")
    encoder = load(config, weights | dict.fromkeys(names, table))
    assert torch.equal(encoder.get_parameter("embedding.weight"), table)


def test_where_the_embedding_is_there_twice_the_encoder_has_its_own(
    checkpoint: tuple[EncoderConfig, Weights],
) -> None:
    config, weights = checkpoint
    own = weights["shared.weight"] + 1
    encoder = load(config, weights | {"encoder.embed_tokens.weight": own})
    assert torch.equal(encoder.get_parameter("embedding.weight"), own)
