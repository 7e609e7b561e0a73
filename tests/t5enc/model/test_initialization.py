"""Weights to train from: transformers' deviations, module by module, and nothing that was loaded is drawn again."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from t5enc.checkpoint.weights import split_tensors
from t5enc.hf.families import FAMILIES as MODELS
from t5enc.model.encoder import Encoder
from t5enc.model.initialization import initialize_all
from tests.families import FAMILIES

WIDE: dict[str, Any] = {"vocab_size": 500, "d_model": 128, "d_kv": 32, "num_heads": 3, "d_ff": 160, "num_layers": 2}


def make(family: str, **fields: Any) -> tuple[Any, Any]:
    """A drop-in and transformers' own model, both untrained."""
    import transformers

    known = FAMILIES[family] | WIDE | fields
    base = getattr(transformers, known.pop("class"))
    config = base.config_class(**known)
    torch.manual_seed(0)
    return MODELS[config.model_type](config), base(config)


def deviations(tensors: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(tensor.std()) for name, tensor in tensors.items() if tensor.dim() > 1}


@pytest.mark.parametrize("factor", [1.0, 0.25])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_the_deviation_that_transformers_gives_it(family: str, factor: float) -> None:
    ours, theirs = make(family, initializer_factor=factor)
    found = deviations(split_tensors(ours.state_dict(), ours.list_parts()))
    expected = deviations(theirs.state_dict())
    assert set(found) == set(expected)
    for name, deviation in expected.items():
        # the smallest tensor, a bias table, has 96 numbers
        assert math.isclose(found[name], deviation, rel_tol=0.25 if "bias" in name else 0.06), name
    assert all((tensor == factor).all() for name, tensor in ours.state_dict().items() if "norm" in name)


def test_conventional_logits_start_from_larger_queries() -> None:
    plain, scaled = (make("t5_v1_1", **fields)[0] for fields in ({}, {"scale_logits": True}))
    queries = [model.encoder.block[0].attention.qkv.weight[: 3 * 32].detach().std() for model in (plain, scaled)]
    assert math.isclose(queries[1] / queries[0], math.sqrt(32), rel_tol=0.05)


def test_the_engine_itself_can_be_drawn() -> None:
    encoder = Encoder(make("umt5")[0].encoder.shape)
    torch.manual_seed(1)
    initialize_all(encoder)
    expected = {"embedding": 1, "qkv": 128**-0.5, "down": 160**-0.5, "relative_bias": 128**-0.5}
    for name, parameter in encoder.named_parameters():
        if (deviation := expected.get(name.split(".")[-2])) is not None and "qkv" not in name:
            assert math.isclose(float(parameter.detach().std()), deviation, rel_tol=0.1), name
    assert torch.equal(encoder.relative_bias.buckets, encoder.relative_bias.count_buckets())


def test_what_is_missing_from_a_checkpoint_is_drawn_and_the_rest_left_alone(tmp_path: Any) -> None:
    from safetensors.torch import load_file, save_file

    ours, _ = make("t5_v1_1")
    ours.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if ".1.layer.1.DenseReluDense.wo" not in name}
    save_file(kept, path, {"format": "pt"})
    torch.manual_seed(7)
    loaded = type(ours).from_pretrained(tmp_path)
    for name, parameter in loaded.named_parameters():
        is_drawn = name == "encoder.block.1.feed_forward.down.weight"
        assert torch.equal(parameter, ours.get_parameter(name)) != is_drawn, name
    assert math.isclose(float(loaded.encoder.block[1].feed_forward.down.weight.detach().std()), 160**-0.5, rel_tol=0.06)
