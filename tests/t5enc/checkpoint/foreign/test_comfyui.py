"""ComfyUI's eight bits: int8 with a scale a row, and what is more than numbers times a scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from t5enc.checkpoint.opening import open_checkpoint
from t5enc.errors import CheckpointError
from t5enc.text_encoder import TextEncoder
from tests.t5enc.checkpoint.test_layouts import make_state

Weights = dict[str, Tensor]
LINEAR = ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o", "DenseReluDense")
Q = "encoder.block.0.layer.0.SelfAttention.q"


def quantize(state: Weights, note: dict[str, Any] | None, *, by_row: bool = True) -> tuple[Weights, Weights]:
    """Linear layers in int8, with a note of their format or none; and what they stand for."""
    stored, meant = dict(state), dict(state)
    for name, weight in state.items():
        if not any(part in name for part in LINEAR) or "bias" in name:
            continue
        scale = (weight.abs().amax(1, keepdim=True) if by_row else weight.abs().amax()) / 127
        stored[name] = (weight / scale).round().to(torch.int8)
        stored[name.replace(".weight", ".weight_scale")] = scale
        if note is not None:
            content = bytearray(json.dumps(note).encode())
            stored[name.replace(".weight", ".comfy_quant")] = torch.frombuffer(content, dtype=torch.uint8)
        meant[name] = stored[name].float() * scale
    return stored, meant


@pytest.mark.parametrize("by_row", [True, False], ids=["a scale a row", "one scale"])
@pytest.mark.parametrize("note", [None, {"format": "int8_tensorwise"}, {"format": "int8_tensorwise", "convrot": False}])
def test_int8_is_multiplied_out(note: dict[str, Any] | None, by_row: bool, tmp_path: Path) -> None:
    state, _ = make_state("t5_v1_1", tmp_path)
    stored, meant = quantize(state, note, by_row=by_row)
    save_file(stored, tmp_path / "int8.safetensors")
    save_file(meant, tmp_path / "meant.safetensors")
    found, expected = (
        TextEncoder.from_pretrained(tmp_path / f"{name}.safetensors", tokenizer="byt5").encode(["a red bird"]).values
        for name in ("int8", "meant")
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        ({"format": "int8_tensorwise", "convrot": True}, r"q.weight: expected plain rows, got int8_tensorwise rotated"),
        ({"format": "nvfp4"}, r"q.weight: expected one of float8_e4m3fn, .*, got nvfp4"),
    ],
)
@pytest.mark.parametrize("in_header", [False, True], ids=["beside the weight", "in the header"])
def test_what_is_more_than_a_scale_is_refused_by_its_name(
    note: dict[str, Any], reason: str, in_header: bool, tmp_path: Path
) -> None:
    stored, _ = quantize(make_state("t5_v1_1", tmp_path)[0], None if in_header else note)
    header = {"_quantization_metadata": json.dumps({"layers": {Q: note, "another.model": note}})} if in_header else None
    save_file(stored, tmp_path / "a.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match=reason):
        TextEncoder.from_pretrained(tmp_path / "a.safetensors", tokenizer="byt5")


def test_scales_of_blocks_are_refused(tmp_path: Path) -> None:
    stored, _ = quantize(make_state("t5_v1_1", tmp_path)[0], None)
    stored[f"{Q}.weight_scale"] = torch.ones(len(stored[f"{Q}.weight"]), 4)
    save_file(stored, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"q.weight: expected float8 or int8 with one scale or one a row, got"):
        TextEncoder.from_pretrained(tmp_path / "a.safetensors", tokenizer="byt5")


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    save_file(make_state("t5_v1_1", tmp_path)[0], tmp_path / "a.safetensors", metadata={"_quantization_metadata": "{"})
    with pytest.raises(CheckpointError, match="_quantization_metadata: expected JSON of its format"):
        open_checkpoint(tmp_path / "a.safetensors")
