"""Hidden states of every family equal transformers', alone or packed, whichever attention computes them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from t5enc.checkpoint.weights import load_encoder
from t5enc.config import EncoderConfig
from t5enc.model.attention.plan import plan_flex, plan_sdpa
from t5enc.model.encoder import Encoder
from tests.families import FAMILIES
from tests.t5enc.conftest import Make
from tests.t5enc.reference import ROUNDING, Ids, distance, random_ids, reference

CPU = torch.device("cpu")
LENGTHS = [1, 1, 2, 3, 7, 7, 7, 16, 40, 64, 65, 127, 128, 129, 130, 257, 600]
FLEX_LENGTHS = [1, 2, 3, 7, 7, 40, 65, 130, 600]
FLEX_TOTAL = 1024
# A bias for all layers without gate, and one for each layer with a gate: the others are one or the other.
FLEX_FAMILIES = [
    name if name in ("t5_v1_0", "umt5") else pytest.param(name, marks=pytest.mark.long) for name in FAMILIES
]
# What families of one architecture may differ in; d_kv times heads is nowhere d_model.
SHAPES: dict[str, dict[str, Any]] = {
    "few buckets": {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 20},
    "many buckets": {"relative_attention_num_buckets": 64, "relative_attention_max_distance": 300},
    "distances to 128": {"relative_attention_max_distance": 128},
    "many narrow heads": {"num_heads": 10, "d_kv": 8},
    "one wide head": {"num_heads": 1, "d_kv": 40},
    "odd sizes": {"d_model": 36, "d_ff": 52, "num_heads": 5, "d_kv": 12, "vocab_size": 301},
    "many layers": {"num_layers": 24},
    "one layer": {"num_layers": 1},
    "large epsilon": {"layer_norm_epsilon": 0.1},
}


def load(folder: Path, *, pack: bool = False) -> Encoder:
    """The float32 encoder of a checkpoint's folder."""
    config = EncoderConfig.from_hf(json.loads((folder / "config.json").read_text()))
    tensors = load_file(folder / "model.safetensors")
    return load_encoder(config, tensors, dtype=torch.float32, device=CPU, pack=pack)


@torch.no_grad()
def run_sdpa(encoder: Encoder, texts: list[Ids]) -> list[Tensor]:
    """Hidden states of texts in one stream."""
    lengths = [len(text) for text in texts]
    ids = torch.cat([torch.from_numpy(text) for text in texts])
    return list(encoder(encoder.embed(ids), plan_sdpa(lengths)).split(lengths))


@torch.no_grad()
def run_flex(encoder: Encoder, texts: list[Ids]) -> list[Tensor]:
    """The same through the compiled block, the stream padded to FLEX_TOTAL tokens."""
    lengths = [len(text) for text in texts]
    ids = torch.zeros(FLEX_TOTAL, dtype=torch.int64)
    ids[: sum(lengths)] = torch.cat([torch.from_numpy(text) for text in texts])
    plan = plan_flex(lengths, FLEX_TOTAL, block_size=64, device=CPU)
    return list(encoder(encoder.embed(ids), plan)[: sum(lengths)].split(lengths))


def shuffled(count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(count), count)


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed weights"])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_in_any_company_equal_transformers(family: str, pack: bool, make: Make) -> None:
    folder, model = make(family)
    encoder = load(folder, pack=pack)
    texts = random_ids(LENGTHS)
    expected = reference(model, texts)
    assert distance((run_sdpa(encoder, [text])[0] for text in texts), expected) < ROUNDING
    for seed in range(3):
        order = shuffled(len(texts), seed)
        found = run_sdpa(encoder, [texts[index] for index in order])
        assert distance(found, [expected[index] for index in order]) < ROUNDING


@pytest.mark.parametrize("family", FLEX_FAMILIES)
def test_compiled_flex_equals_transformers(family: str, make: Make, compiler: None) -> None:
    folder, model = make(family)
    encoder = load(folder)
    texts = random_ids(FLEX_LENGTHS)
    expected = reference(model, texts)
    assert distance((run_flex(encoder, [text])[0] for text in texts), expected) < ROUNDING
    for seed in range(3):
        order = shuffled(len(texts), seed)
        found = run_flex(encoder, [texts[index] for index in order])
        assert distance(found, [expected[index] for index in order]) < ROUNDING
    assert encoder.compiled.graphs == 1


@pytest.mark.parametrize("family", ["t5_v1_1", "umt5"])
@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_equal_transformers(shape: str, family: str, make: Make) -> None:
    folder, model = make(family, **SHAPES[shape])
    texts = random_ids(LENGTHS)
    assert distance(run_sdpa(load(folder), texts), reference(model, texts)) < ROUNDING


@pytest.mark.parametrize("projection", ["gelu", "gelu_new", "silu", "gated-relu", "gated-gelu_new", "gated-swish"])
def test_other_activations_equal_transformers(projection: str, make: Make) -> None:
    folder, model = make("t5_v1_1", feed_forward_proj=projection)
    texts = random_ids([3, 9, 30])
    assert distance(run_sdpa(load(folder, pack=True), texts), reference(model, texts)) < ROUNDING


def test_compiled_flex_takes_other_buckets(make: Make, compiler: None) -> None:
    folder, model = make("umt5", **SHAPES["few buckets"])
    texts = random_ids(FLEX_LENGTHS)
    assert distance(run_flex(load(folder), texts), reference(model, texts)) < ROUNDING


def test_documents_beyond_the_dense_bias_equal_transformers(make: Make) -> None:
    folder, model = make("umt5")
    texts = random_ids([5, 2500, 1025])
    assert distance(run_sdpa(load(folder), texts), reference(model, texts)) < ROUNDING


def test_padding_of_a_stream_changes_nothing(make: Make) -> None:
    encoder = load(make().folder)
    text = torch.from_numpy(random_ids([9])[0])
    with torch.no_grad():
        alone = encoder(encoder.embed(text), plan_sdpa([4, 5]))
        padded = encoder(encoder.embed(torch.cat([text, torch.zeros(7, dtype=torch.int32)])), plan_sdpa([4, 5], 16))
    assert distance([padded[:9]], [alone]) < ROUNDING
    assert padded.isfinite().all()


def test_a_packed_encoder_has_no_linear_weights_left(make: Make) -> None:
    encoder = load(make().folder)
    encoder.pack()
    names = {name for name, _ in encoder.named_parameters()}
    assert not [name for name in names if "attention.qkv" in name or "feed_forward." in name]
    assert {"embedding.weight", "relative_bias.weight", "final_norm.weight"} <= names


def test_a_residual_too_large_for_a_norm_shows_as_nan(make: Make) -> None:
    encoder = load(make().folder)
    with torch.no_grad():
        hidden = encoder.embed(torch.arange(2, 8))
        hidden[4] = 1e30
        found = encoder(hidden, plan_sdpa([3, 3]))
    assert found[4].isnan().all()
    assert found[:3].isfinite().all()


def test_the_plain_path_has_gradients(make: Make) -> None:
    encoder = load(make().folder).requires_grad_(True)
    encoder(encoder.embed(torch.arange(2, 8)), plan_sdpa([2, 4])).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
