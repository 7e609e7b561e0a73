"""What is no checkpoint is refused, and the message names what is missing or wrong, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from t5enc.checkpoint.opening import open_checkpoint
from t5enc.errors import CheckpointError, ConfigError
from t5enc.options import ModelSource


def test_a_bin_file_that_would_run_code_is_refused(model: Any, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"shared.weight": Path("a")}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: expected PyTorch weights"):
        open_checkpoint(tmp_path / "model")


def test_a_bin_file_of_something_else_than_tensors_is_refused(model: Any, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save([1, 2], tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="expected a dictionary of tensors, got list"):
        open_checkpoint(tmp_path / "model")


def test_an_absent_variant_is_refused_even_where_plain_weights_are(model: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.fp16\.safetensors, .*model\.safetensors"):
        open_checkpoint(ModelSource(model=str(tmp_path / "model"), variant="fp16"))


def test_a_diffusers_repository_without_t5_names_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"text_encoder": ["transformers", "CLIPTextModel"]}')
    with pytest.raises(CheckpointError, match="expected a T5 encoder, got text_encoder CLIPTextModel"):
        open_checkpoint(tmp_path)


def test_a_missing_config_names_the_folder_and_what_it_holds(model: Any, tmp_path: Path) -> None:
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json in .*model \(it holds model\.safetensors\)"):
        open_checkpoint(tmp_path / "model")


def test_missing_weights_name_every_file_that_was_looked_for(model: Any, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"it holds config\.json.*pytorch_model\.bin\.index\.json"):
        open_checkpoint(tmp_path / "model")


def test_a_missing_shard_is_named(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    model.save_pretrained(folder, max_shard_size="60KB")
    lost = sorted(folder.glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"names {lost.name}: no such file in"):
        open_checkpoint(folder)


def test_a_missing_subfolder_is_named(model: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent \(no such folder\)"):
        open_checkpoint(ModelSource(model=str(tmp_path / "model"), subfolder="absent"))


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_config_that_is_no_json_object_is_refused(content: str, model: Any, tmp_path: Path) -> None:
    (tmp_path / "model" / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json: expected (a )?JSON"):
        open_checkpoint(tmp_path / "model")


def test_a_config_of_another_family_names_file_and_field(model: Any, tmp_path: Path) -> None:
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert", "vocab_size": 9}')
    with pytest.raises(ConfigError, match=r"config\.json: model_type.*bert"):
        open_checkpoint(tmp_path / "model")


def test_an_index_without_a_weight_map_is_refused(model: Any, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected a weight_map"):
        open_checkpoint(tmp_path / "model")


def test_weights_of_another_model_are_refused(model: Any, tmp_path: Path) -> None:
    save_file({"bert.embeddings.weight": torch.zeros(2)}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"expected a T5 encoder.*bert\.embeddings\.weight"):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("model_name", ["/no/such/folder", "./missing", "a/b/c", "builtin:tiny"])
def test_a_name_that_is_no_path_and_no_hub_id_is_refused(model_name: str) -> None:
    with pytest.raises(CheckpointError, match=r"expected a folder, a \.safetensors file or a hub id"):
        open_checkpoint(model_name)
