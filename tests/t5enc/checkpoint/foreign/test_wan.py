"""Wan's own files: other names of a UMT5's tensors, pickled or in safetensors, and a tokenizer beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from t5enc.checkpoint.builtin import write_builtin
from t5enc.checkpoint.opening import open_checkpoint
from t5enc.errors import CheckpointError
from t5enc.text_encoder import TextEncoder
from tests.families import make_checkpoint
from tests.t5enc.reference import ROUNDING, distance, random_ids, reference

# Seen from a block: Wan's name, and Hugging Face's.
IN_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def name_as_wan(model: Any) -> dict[str, Tensor]:
    state = model.state_dict()
    named = {"token_embedding.weight": state["shared.weight"], "norm.weight": state["encoder.final_layer_norm.weight"]}
    for layer in range(model.config.num_layers):
        for wan, theirs in IN_BLOCK.items():
            named[f"blocks.{layer}.{wan}.weight"] = state[f"encoder.block.{layer}.{theirs}.weight"]
    return {name: tensor.detach().clone() for name, tensor in named.items()}


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return make_checkpoint("umt5", tmp_path / "umt5", relative_attention_max_distance=128)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_they_encode_as_the_same_weights_under_hugging_faces_names(ending: str, model: Any, tmp_path: Path) -> None:
    path = tmp_path / f"models_t5_umt5.{ending}"
    tensors = name_as_wan(model)
    torch.save(tensors, path) if ending == "pth" else save_file(tensors, path)
    ids = random_ids([3, 17, 40])
    found = TextEncoder.from_pretrained(path, tokenizer="byt5").encode_tokens(ids)
    assert distance(found, reference(model, ids)) < ROUNDING


def test_float8_with_scales_is_multiplied_out_under_these_names_too(model: Any, tmp_path: Path) -> None:
    tensors = name_as_wan(model)
    weight = tensors["blocks.0.ffn.fc1.weight"]
    tensors["blocks.0.ffn.fc1.weight"] = (weight * 64).to(torch.float8_e4m3fn)
    tensors["blocks.0.ffn.fc1.scale_weight"] = torch.tensor(1 / 64)
    save_file(tensors, tmp_path / "a.safetensors")
    found = open_checkpoint(tmp_path / "a.safetensors").tensors["encoder.block.0.layer.1.DenseReluDense.wi_1.weight"]
    assert torch.equal(found, (weight * 64).to(torch.float8_e4m3fn).float() / 64)


def test_the_tokenizer_of_wans_repository_is_found(model: Any, tmp_path: Path) -> None:
    torch.save(name_as_wan(model), tmp_path / "a.pth")
    write_builtin("builtin:tiny", tmp_path / "google" / "umt5-xxl")
    assert open_checkpoint(tmp_path / "a.pth").tokenizer_source == tmp_path / "google" / "umt5-xxl"


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"blocks": Path("a")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: expected PyTorch weights, got .*"):
        open_checkpoint(tmp_path / "a.pth")


def test_gguf_is_named_with_what_to_take_instead(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"got GGUF, .*: take a float8, int8 or 16-bit file of the same model"):
        open_checkpoint(tmp_path / "a.gguf")
