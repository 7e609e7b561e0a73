"""Single files as ComfyUI shares them: names, prefixes, float8 and its scales, configs from shapes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from t5enc.checkpoint.layouts import select_encoder
from t5enc.checkpoint.opening import open_checkpoint
from t5enc.checkpoint.tensor_files import LazyTensors
from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError, ConfigError
from t5enc.options import ModelSource
from tests.families import make_checkpoint

Q = "encoder.block.0.layer.0.SelfAttention.q"
Weights = dict[str, Tensor]


def make_state(family: str, tmp_path: Path, **overrides: Any) -> tuple[Weights, EncoderConfig]:
    """Weights of a random encoder, and its config as transformers tells it."""
    model = make_checkpoint(family, tmp_path / family, relative_attention_max_distance=128, **overrides)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state.pop("encoder.embed_tokens.weight", None)
    return state, EncoderConfig.from_hf(model.config.to_dict())


def quantize(state: Weights, scale_name: str) -> tuple[Weights, Weights]:
    """Matrices of the blocks in float8 with a scale each; and what they stand for."""
    stored, meant = dict(state), dict(state)
    for name, tensor in state.items():
        if name.startswith("encoder.block") and tensor.dim() == 2 and "bias" not in name:
            scale = tensor.abs().max() / 448
            stored[name] = (tensor / scale).to(torch.float8_e4m3fn)
            stored[name.replace(".weight", f".{scale_name}")] = scale
            meant[name] = stored[name].float() * scale
    return stored, meant


def lazily(tensors: Weights) -> LazyTensors:
    return LazyTensors({name: partial(tensors.__getitem__, name) for name in tensors})


@pytest.mark.parametrize("family", ["t5_v1_0", "t5_v1_1", "umt5"])
def test_the_config_is_told_by_the_shapes(family: str, tmp_path: Path) -> None:
    state, config = make_state(family, tmp_path)
    save_file(state, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.config == config
    assert checkpoint.tokenizer_source is None
    assert set(checkpoint.tensors) == set(state)
    assert checkpoint.provenance["files"] == "a.safetensors"


def test_heads_need_not_fill_the_models_width(tmp_path: Path) -> None:
    state, config = make_state("t5_v1_1", tmp_path, num_heads=5, d_kv=32)
    save_file(state, tmp_path / "a.safetensors")
    assert open_checkpoint(tmp_path / "a.safetensors").config == config


@pytest.mark.parametrize("prefix", ["t5xxl.", "text_encoders.t5xxl.transformer."])
def test_a_prefix_is_stripped_and_other_models_are_left_out(prefix: str, tmp_path: Path) -> None:
    state, config = make_state("t5_v1_1", tmp_path)
    others = {
        "model.diffusion_model.out.weight": torch.zeros(2),
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2),
        "vae.encoder.block.weight": torch.zeros(2),
        f"{prefix}logit_scale": torch.zeros(1),
    }
    save_file({prefix + name: tensor for name, tensor in state.items()} | others, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    assert set(checkpoint.tensors) == set(state)
    assert checkpoint.config == config


def test_plain_float8_comes_out_as_it_is(tmp_path: Path) -> None:
    state, _ = make_state("t5_v1_1", tmp_path)
    stored = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}
    save_file(stored, tmp_path / "a.safetensors")
    tensors = open_checkpoint(tmp_path / "a.safetensors").tensors
    assert all(tensors[name].dtype is torch.float8_e4m3fn for name in state)
    assert all(torch.equal(tensors[name].float(), stored[name].float()) for name in state)


@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale"])
def test_scaled_float8_is_multiplied_out(scale_name: str, tmp_path: Path) -> None:
    state, _ = make_state("umt5", tmp_path)
    stored, meant = quantize(state, scale_name)
    notes = {
        "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
        f"{Q}.scale_input": torch.ones(()),
        f"{Q}.comfy_quant": torch.frombuffer(bytearray(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8),
    }
    save_file(stored | notes, tmp_path / "a.safetensors")
    tensors = open_checkpoint(tmp_path / "a.safetensors").tensors
    assert set(tensors) == set(state)
    assert all(torch.equal(tensors[name], meant[name]) for name in state)


def test_a_scale_a_row_multiplies_rows() -> None:
    weight = torch.ones(2, 2).to(torch.float8_e4m3fn)
    tensors = select_encoder(lazily({f"{Q}.weight": weight, f"{Q}.scale_weight": torch.tensor([2.0, 3.0])}), "a")
    assert tensors[f"{Q}.weight"].tolist() == [[2, 2], [3, 3]]


@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        (torch.zeros(2, 4, dtype=torch.uint8), torch.ones(1)),
        (torch.zeros(2, 4).to(torch.float8_e4m3fn), torch.ones(2, 2)),
    ],
    ids=["uint8", "blocks"],
)
def test_other_quantizations_are_refused_by_name(weight: Tensor, scale: Tensor) -> None:
    tensors = select_encoder(lazily({f"{Q}.weight": weight, f"{Q}.weight_scale": scale}), "a")
    with pytest.raises(CheckpointError, match=rf"{Q}\.weight: expected float8 or int8 with one scale"):
        tensors[f"{Q}.weight"]


def test_a_scale_of_no_weight_is_kept_to_be_refused() -> None:
    tensors = select_encoder(lazily({f"{Q}.weight": torch.ones(1), "encoder.x.scale_weight": torch.ones(1)}), "a")
    assert "encoder.x.scale_weight" in tensors


def test_an_embedded_sentencepiece_model_is_the_tokenizer(tmp_path: Path) -> None:
    state, _ = make_state("umt5", tmp_path)
    model = torch.tensor(list(b"any bytes"), dtype=torch.uint8)
    save_file(state | {"spiece_model": model}, tmp_path / "a.safetensors")
    assert open_checkpoint(tmp_path / "a.safetensors").tokenizer_source == b"any bytes"


def test_a_file_without_t5_is_refused(tmp_path: Path) -> None:
    save_file({"decoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: expected a T5 encoder"):
        open_checkpoint(tmp_path / "a.safetensors")


def test_a_file_with_two_t5_encoders_names_both() -> None:
    two = {f"{prefix}.{Q}.weight": torch.ones(1) for prefix in ("first", "second")}
    with pytest.raises(CheckpointError, match=r"expected one T5 encoder, got 2: first\., second\."):
        select_encoder(lazily(two), "a")


@pytest.mark.parametrize("name", ["shared.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"])
def test_a_tensor_that_the_config_needs_is_named_when_it_is_missing(name: str, tmp_path: Path) -> None:
    state, _ = make_state("t5_v1_1", tmp_path)
    del state[name]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"expected a matrix, got nothing of that name"):
        open_checkpoint(tmp_path / "a.safetensors")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"expected a folder or one of \.safetensors, .*, got GGUF"):
        open_checkpoint(tmp_path / "a.gguf")


def test_options_that_a_single_file_cannot_honour_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(ConfigError, match="subfolder, variant"):
        open_checkpoint(ModelSource(model=str(tmp_path / "a.safetensors"), variant="fp16"))


@pytest.mark.parametrize("is_sharded", [False, True], ids=["one file", "shards"])
def test_an_embedding_that_lies_in_the_decoder_alone_is_the_encoders(is_sharded: bool, tmp_path: Path) -> None:
    state, _ = make_state("t5_v1_1", tmp_path)
    folder = tmp_path / "t5_v1_1"
    (folder / "model.safetensors").unlink()
    embedding = {"decoder.embed_tokens.weight": state.pop("shared.weight"), "lm_head.weight": torch.zeros(300, 64)}
    if is_sharded:
        save_file(state, folder / "a.safetensors")
        save_file(embedding, folder / "b.safetensors")
        places = dict.fromkeys(state, "a.safetensors") | dict.fromkeys(embedding, "b.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        save_file(state | embedding, folder / "model.safetensors")
    found = open_checkpoint(folder).tensors
    assert set(found) == {*state, "shared.weight"}
    assert torch.equal(found["shared.weight"], embedding["decoder.embed_tokens.weight"])
