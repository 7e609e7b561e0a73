"""Hugging Face configs are read as transformers reads them, and refused by field where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError
from tests.families import FAMILIES
from tests.t5enc.conftest import Make

CLASSES = {"t5": "T5Config", "mt5": "MT5Config", "umt5": "UMT5Config"}


def as_transformers_reads(fields: dict[str, Any]) -> EncoderConfig:
    """The config that transformers' own attributes spell out."""
    import transformers

    theirs = getattr(transformers, CLASSES[fields["model_type"]]).from_dict(dict(fields))
    activations = {"relu": "relu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
    return EncoderConfig(
        family=theirs.model_type,
        vocab_size=theirs.vocab_size,
        model_dim=theirs.d_model,
        num_layers=theirs.num_layers,
        num_heads=theirs.num_heads,
        head_dim=theirs.d_kv,
        ff_dim=theirs.d_ff,
        activation=(activations | {"silu": "silu", "swish": "silu"})[theirs.dense_act_fn],  # type: ignore[arg-type]
        is_gated=theirs.is_gated_act,
        num_buckets=theirs.relative_attention_num_buckets,
        max_distance=theirs.relative_attention_max_distance,
        bias_per_layer=theirs.model_type == "umt5",
        norm_eps=theirs.layer_norm_epsilon,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_what_transformers_saved(family: str, make: Make) -> None:
    fields = json.loads((make(family).folder / "config.json").read_text())
    assert EncoderConfig.from_hf(fields) == as_transformers_reads(fields)


@pytest.mark.parametrize("family", CLASSES)
def test_absent_fields_have_the_defaults_of_transformers(family: str) -> None:
    fields = {"model_type": family}
    assert EncoderConfig.from_hf(fields) == as_transformers_reads(fields)


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize(
    "projection",
    ["relu", "gelu", "silu", "gelu_new", "gated-gelu", "gated-silu", "gated-relu", "gated-swish", "gated-gelu_new"],
)
def test_activations_mean_what_they_mean_in_transformers(projection: str, family: str) -> None:
    fields = {"model_type": family, "feed_forward_proj": projection}
    assert EncoderConfig.from_hf(fields) == as_transformers_reads(fields)


@pytest.mark.parametrize(
    ("alias", "value"), [("hidden_size", 96), ("num_hidden_layers", 5), ("num_attention_heads", 3), ("head_dim", 24)]
)
def test_second_names_of_fields_are_read(alias: str, value: int) -> None:
    fields = {"model_type": "t5", alias: value}
    assert EncoderConfig.from_hf(fields) == as_transformers_reads(fields)


def test_the_config_of_t5_xxl_is_read(shared: Path) -> None:
    fields = json.loads((shared / "data" / "t5xxl-layout" / "config.json").read_text())
    config = EncoderConfig.from_hf(fields)
    assert config == as_transformers_reads(fields)
    assert (config.model_dim, config.inner_dim, config.num_biases) == (4096, 4096, 1)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("model_type", "longt5", "expected one of t5, mt5, umt5, got 'longt5'"),
        ("model_type", "switch_transformers", "expected one of t5, mt5, umt5"),
        ("model_type", None, "expected one of t5, mt5, umt5"),
        ("feed_forward_proj", "gated-mish", "expected NAME or gated-NAME of relu, .*got 'gated-mish'"),
        ("feed_forward_proj", "moe-gelu", ".*got 'moe-gelu'"),
        ("feed_forward_proj", "-relu", ".*got '-relu'"),
        ("feed_forward_proj", None, ".*got 'None'"),
        ("dense_act_fn", "gelu", "expected gelu_new, as feed_forward_proj has it, got 'gelu'"),
        ("is_gated_act", False, "expected True, as feed_forward_proj has it, got False"),
        ("is_decoder", True, "expected False, the only value modelled, got True"),
        ("encoder_attention_type", "local", "expected None"),
        ("num_experts", 8, "expected None, .*got 8"),
        ("pruned_heads", {"0": [1]}, "expected {}"),
        ("quantization_config", {"quant_method": "fp8"}, "expected None"),
        ("d_model", 64.0, "expected a positive integer, got 64.0"),
        ("d_model", "64", "expected a positive integer, got '64'"),
        ("num_layers", 0, "expected a positive integer, got 0"),
        ("num_heads", True, "expected a positive integer, got True"),
        ("vocab_size", None, "expected a positive integer, got None"),
        ("relative_attention_num_buckets", 33, "expected an even number of at least 4, got 33"),
        ("relative_attention_num_buckets", 2, "expected an even number of at least 4, got 2"),
        ("relative_attention_max_distance", 8, "expected more than a quarter of the 32 buckets, got 8"),
        ("layer_norm_epsilon", None, "expected a number, got None"),
        ("layer_norm_epsilon", -1e-6, "expected a number from 0 on, got -1e-06"),
    ],
)
def test_a_field_that_would_be_modelled_wrongly_is_refused_by_name(field: str, value: Any, expected: str) -> None:
    fields = {"model_type": "t5", "feed_forward_proj": "gated-gelu", field: value}
    with pytest.raises(ConfigError, match=f"^{field}: {expected}"):
        EncoderConfig.from_hf(fields)


def test_two_names_of_one_field_must_agree() -> None:
    same = {"model_type": "t5", "num_layers": 3, "num_hidden_layers": 3}
    assert EncoderConfig.from_hf(same).num_layers == 3
    with pytest.raises(ConfigError, match=r"^num_layers and num_hidden_layers: expected one value, got 3 and 4"):
        EncoderConfig.from_hf(same | {"num_hidden_layers": 4})


def test_fields_without_effect_on_an_encoder_are_ignored() -> None:
    fields = {"model_type": "umt5", "d_ff": 99}
    extra = {"scalable_attention": True, "tie_word_embeddings": False, "num_decoder_layers": 1, "use_cache": False}
    assert EncoderConfig.from_hf(fields | extra) == EncoderConfig.from_hf(fields)


def test_derived_fields_may_stand_beside_their_source_in_any_spelling() -> None:
    fields = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "is_gated_act": True}
    for name in ("gelu_new", "gelu_pytorch_tanh"):
        assert EncoderConfig.from_hf(fields | {"dense_act_fn": name}).activation == "gelu_tanh"
