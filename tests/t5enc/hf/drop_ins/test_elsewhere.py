"""Weights that do not lie where an encoder's do: madlad's embedding in the decoder, and GGUF."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import t5enc.hf as hf
from t5enc.errors import CheckpointError, ConfigError
from tests.families import make_checkpoint
from tests.t5enc.reference import ROUNDING, distance, random_ids, reference

IDS = random_ids([3, 17])


def run(model: Any) -> list[torch.Tensor]:
    return reference(model.eval(), IDS)


def move_embedding(folder: Path, name: str | None) -> Any:
    """A checkpoint whose embedding has another name, or is gone."""
    model = make_checkpoint("t5_v1_1", folder)
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors.pop("shared.weight")
    tensors.pop("encoder.embed_tokens.weight", None)
    save_file(tensors | ({name: embedding} if name else {}), folder / "model.safetensors", metadata={"format": "pt"})
    return model


def test_an_embedding_in_the_decoder_alone_is_the_encoders(tmp_path: Path) -> None:
    plain = move_embedding(tmp_path, "decoder.embed_tokens.weight")
    assert distance(run(hf.T5EncoderModel.from_pretrained(tmp_path)), run(plain)) < ROUNDING
    _, info = hf.T5EncoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]


def test_no_embedding_is_drawn_at_random(tmp_path: Path) -> None:
    move_embedding(tmp_path, None)
    with pytest.raises(CheckpointError, match=r"shared.weight: missing, and so are encoder.embed_tokens.weight"):
        hf.T5EncoderModel.from_pretrained(tmp_path)


def test_what_transformers_reads_of_a_gguf_file_is_taken_and_its_gate_is_gelus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_checkpoint("t5_v1_1", tmp_path)
    read = deepcopy(plain)
    # As transformers' reader leaves it: a gate, the default projection, and the file's quantization.
    read.config.feed_forward_proj, read.config.dense_act_fn, read.config.is_gated_act = "relu", "relu", True
    read.config.quantization_config = {"quant_method": "gguf"}
    asked: dict[str, Any] = {}

    def load(*arguments: Any, **options: Any) -> Any:
        asked.update(options)
        return read

    monkeypatch.setattr(transformers.T5EncoderModel, "from_pretrained", load)
    found = hf.T5EncoderModel.from_pretrained(tmp_path, gguf_file="a.gguf", pad_outputs="zero")
    assert asked == {"gguf_file": "a.gguf"}
    assert distance(run(found), run(plain)) < ROUNDING
    with pytest.raises(ConfigError, match="device_map: expected none with gguf_file, got 'auto'"):
        hf.T5EncoderModel.from_pretrained(tmp_path, gguf_file="a.gguf", device_map="auto")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_made_for_transformers_is_merged_there_and_loaded(tmp_path: Path) -> None:
    make_checkpoint("t5_v1_1", tmp_path / "base")
    ours = hf.T5EncoderModel.from_pretrained(tmp_path / "base").eval()
    trained = get_peft_model(ours.to_transformers(), LoraConfig(r=2, target_modules=["q", "wo"])).eval()
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    trained.save_pretrained(tmp_path / "adapter")
    merged = PeftModel.from_pretrained(ours.to_transformers(), tmp_path / "adapter").merge_and_unload()
    ours.load_state_dict(merged.state_dict())
    assert distance(run(ours), run(trained)) < ROUNDING
