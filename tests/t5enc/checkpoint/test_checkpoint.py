"""Checkpoints on disk in every layout of Hugging Face and diffusers, and what identifies them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from t5enc.checkpoint.builtin import write_builtin
from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.opening import find_tokenizer, open_checkpoint
from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError
from t5enc.options import ModelSource
from tests.families import FAMILIES, make_checkpoint

Weights = dict[str, Tensor]


def state_of(model: Any) -> Weights:
    """A transformers model's weights under the names that a checkpoint has."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state.pop("encoder.embed_tokens.weight", None)
    return state


def assert_holds(checkpoint: Checkpoint, expected: Weights) -> None:
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensors[name], tensor), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_opens_with_all_its_tensors(family: str, tmp_path: Path) -> None:
    model = make_checkpoint(family, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert_holds(checkpoint, state_of(model))
    assert checkpoint.config == EncoderConfig.from_hf(json.loads((tmp_path / "config.json").read_text()))
    assert checkpoint.name == str(tmp_path)


def test_a_tokenizers_process_opens_a_model_whose_weights_are_elsewhere(tmp_path: Path) -> None:
    write_builtin("builtin:tiny", tmp_path)
    whole = open_checkpoint(tmp_path)
    for file in whole.files:
        file.unlink()
    bare = open_checkpoint(tmp_path, with_weights=False)
    assert (bare.tensors, bare.files) == ({}, ())
    assert (bare.config, bare.tokenizer_source) == (whole.config, whole.tokenizer_source)
    with pytest.raises(CheckpointError, match="no weights in"):
        open_checkpoint(tmp_path)


def test_shards_are_read_through_their_index(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    checkpoint = open_checkpoint(tmp_path / "shards")
    assert_holds(checkpoint, state_of(model))
    assert len(checkpoint.files) == len(list((tmp_path / "shards").glob("*.safetensors")))


def test_a_decoder_in_other_shards_is_never_opened(model: Any, tmp_path: Path) -> None:
    state = state_of(model)
    folder = tmp_path / "model"
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    places = dict.fromkeys(state, "a.safetensors")
    places |= {"decoder.block.0.layer.0.SelfAttention.q.weight": "absent.safetensors"}
    places |= {"lm_head.weight": "absent.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert_holds(open_checkpoint(folder), state)


def test_decoder_and_head_in_the_same_file_are_left_out(model: Any, tmp_path: Path) -> None:
    state = state_of(model)
    extra = {
        "decoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2),
        "lm_head.weight": torch.zeros(2),
    }
    save_file(state | extra, tmp_path / "model" / "model.safetensors")
    assert_holds(open_checkpoint(tmp_path / "model"), state)


@pytest.mark.parametrize("names", [("encoder.embed_tokens.weight",), ("shared.weight", "encoder.embed_tokens.weight")])
def test_either_name_of_the_embedding_will_do(names: tuple[str, ...], model: Any, tmp_path: Path) -> None:
    state = state_of(model)
    renamed = {name: tensor for name, tensor in state.items() if name != "shared.weight"}
    renamed |= {name: state["shared.weight"].clone() for name in names}
    save_file(renamed, tmp_path / "model" / "model.safetensors")
    assert_holds(open_checkpoint(tmp_path / "model"), state)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_bin_files_of_both_ages_are_read(zipped: bool, model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "model.safetensors").unlink()
    torch.save(state_of(model), folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_holds(open_checkpoint(folder), state_of(model))


def test_bin_shards_are_read_through_their_index(model: Any, tmp_path: Path) -> None:
    folder, state = tmp_path / "model", state_of(model)
    (folder / "model.safetensors").unlink()
    halves = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
    for number, half in enumerate(halves):
        torch.save(half, folder / f"part-{number}.bin")
    places = {name: f"part-{number}.bin" for number, half in enumerate(halves) for name in half}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert_holds(open_checkpoint(folder), state)


def test_safetensors_are_preferred_to_bin(model: Any, tmp_path: Path) -> None:
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"not read")
    assert_holds(open_checkpoint(tmp_path / "model"), state_of(model))


@pytest.mark.parametrize("shard_size", ["5GB", "60KB"], ids=["whole", "shards"])
def test_a_variant_as_transformers_saves_it_is_found(shard_size: str, model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    model.half().save_pretrained(folder, variant="fp16", max_shard_size=shard_size)
    assert_holds(open_checkpoint(ModelSource(model=str(folder), variant="fp16")), state_of(model))
    with pytest.raises(CheckpointError, match="no weights in"):
        open_checkpoint(folder)


def test_the_other_spelling_of_a_variants_index_is_found(model: Any, tmp_path: Path) -> None:
    folder, state = tmp_path / "model", state_of(model)
    (folder / "model.safetensors").rename(folder / "model-1.fp16.safetensors")
    index = folder / "model.fp16.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, "model-1.fp16.safetensors")}))
    assert_holds(open_checkpoint(ModelSource(model=str(folder), variant="fp16")), state)


def test_a_subfolder_is_opened(model: Any, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(ModelSource(model=str(tmp_path), subfolder="model"))
    assert_holds(checkpoint, state_of(model))
    assert checkpoint.provenance["folder"] == str(tmp_path / "model")


def make_diffusers(folder: Path) -> Any:
    """A repository as Flux has it: CLIP first, T5 second, each with its tokenizer."""
    model = make_checkpoint("t5_v1_1", folder / "text_encoder_2")
    index = {
        "_class_name": "FluxPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "text_encoder_3": [None, None],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
        (folder / name / "tokenizer_config.json").write_text("{}")
    return model


@pytest.mark.parametrize("subfolder", [None, "text_encoder_2"])
def test_a_diffusers_repository_gives_its_t5_and_the_tokenizer_of_that_number(
    subfolder: str | None, tmp_path: Path
) -> None:
    model = make_diffusers(tmp_path)
    checkpoint = open_checkpoint(ModelSource(model=str(tmp_path), subfolder=subfolder))
    assert_holds(checkpoint, state_of(model))
    assert checkpoint.tokenizer_source == tmp_path / "tokenizer_2"


def test_the_tokenizer_is_the_folder_that_holds_its_files(model: Any, tmp_path: Path) -> None:
    assert open_checkpoint(tmp_path / "model").tokenizer_source is None
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    assert open_checkpoint(tmp_path / "model").tokenizer_source == tmp_path / "model"


def test_a_tokenizer_is_found_by_folder_and_by_file(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"model")
    assert find_tokenizer(tmp_path) == tmp_path
    assert find_tokenizer(str(tmp_path / "spiece.model")) == b"model"
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty \(it holds nothing\).*tokenizer="):
        find_tokenizer(tmp_path / "empty")


def test_the_fingerprint_follows_the_content_and_not_the_place(model: Any, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    first = open_checkpoint(tmp_path / "model").fingerprint(tmp_path / "cache")
    assert open_checkpoint(tmp_path / "copy").fingerprint(tmp_path / "cache") == first
    make_checkpoint("t5_v1_1", tmp_path / "copy", seed=1)
    assert open_checkpoint(tmp_path / "copy").fingerprint(tmp_path / "cache") != first


def test_the_fingerprint_follows_the_config(model: Any, tmp_path: Path) -> None:
    first = open_checkpoint(tmp_path / "model").fingerprint(tmp_path / "cache")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"feed_forward_proj": "gated-silu", "dense_act_fn": "silu"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(tmp_path / "model").fingerprint(tmp_path / "cache") != first


def test_provenance_names_folder_and_files_without_reading_them(model: Any, tmp_path: Path) -> None:
    provenance = open_checkpoint(tmp_path / "model").provenance
    assert provenance == {"folder": str(tmp_path / "model"), "files": "model.safetensors"}


def test_the_published_layout_of_t5_xxl_is_understood(shared: Path, tmp_path: Path) -> None:
    layout = shared / "data" / "t5xxl-layout"
    shutil.copytree(layout, tmp_path / "xxl")
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors, model-00002-of-00002"):
        open_checkpoint(tmp_path / "xxl")
