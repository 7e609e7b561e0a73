"""Converted checkpoints are mapped, load into the drop-ins, and are refused by name where they are not whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import t5enc.hf as hf
from t5enc.checkpoint.convert import convert
from t5enc.checkpoint.opening import open_checkpoint
from t5enc.errors import CheckpointError
from tests.families import FAMILIES
from tests.t5enc.checkpoint.conversion.converted_encoders import class_of, load, run, same_tensors
from tests.t5enc.conftest import Make


@pytest.mark.parametrize("fuse_norms", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_drop_ins_load_it_and_save_what_transformers_loads(
    family: str, fuse_norms: bool, make: Make, tmp_path: Path
) -> None:
    source = make(family)
    convert(source.folder, tmp_path / "out", fuse_norms=fuse_norms)
    model = class_of(family, hf).from_pretrained(tmp_path / "out")
    twin = class_of(family, hf).from_pretrained(source.folder)
    assert same_tensors(model.state_dict(), (twin.fuse_norms() if fuse_norms else twin).state_dict())
    model.save_pretrained(tmp_path / "back")
    back, info = class_of(family, transformers).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if not fuse_norms:
        assert same_tensors(back.state_dict(), source.model.state_dict())
    for name, tensor in source.model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor)
    described = json.loads((tmp_path / "back" / "config.json").read_text())
    assert described["architectures"] == [FAMILIES[family]["class"]]
    assert not [name for name in described if "t5enc" in name or name == "transformers_weights"]


@pytest.mark.parametrize("family", ["t5_v1_1", "mt5", "umt5"])
def test_transformers_own_class_refuses_it_by_name(family: str, make: Make, tmp_path: Path) -> None:
    convert(make(family).folder, tmp_path / "out")
    with pytest.raises(OSError, match=r"load_it_with_t5enc\.hf"):
        class_of(family, transformers).from_pretrained(tmp_path / "out")


def test_the_auto_class_and_options_of_the_loader_reach_a_converted_model(make: Make, tmp_path: Path) -> None:
    convert(make("umt5").folder, tmp_path / "out", fuse_norms=True)
    model = hf.AutoT5EncoderModel.from_pretrained(tmp_path / "out")
    assert isinstance(model, hf.UMT5EncoderModel)
    assert model.has_fused_norms
    asked = {"dtype": torch.bfloat16, "dropout_rate": 0.5, "attn_implementation": "eager", "pad_outputs": "zero"}
    model = hf.UMT5EncoderModel.from_pretrained(tmp_path / "out", **asked)
    assert (model.dtype, model.config.dropout_rate) == (torch.bfloat16, 0.5)
    assert (model.config._attn_implementation, model.encoder.pad_outputs) == ("eager", "zero")


def mapped_ranges(path: Path) -> list[range]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    places = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [range(int(start, 16), int(end, 16)) for start, end in places]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc/self/maps")
@pytest.mark.parametrize("fuse_norms", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_are_views_of_the_mapped_file(dtype: str, fuse_norms: bool, make: Make, tmp_path: Path) -> None:
    convert(make("umt5").folder, tmp_path / "out", dtype=dtype, fuse_norms=fuse_norms)
    encoder = load(tmp_path / "out", getattr(torch, dtype))
    ranges = mapped_ranges(tmp_path / "out" / "model.safetensors")
    for name, tensor in encoder.state_dict().items():
        assert any(tensor.data_ptr() in found for found in ranges), name
        assert tensor.data_ptr() % 64 == 0, name
    cast = load(tmp_path / "out", torch.float16)
    assert not any(parameter.data_ptr() in found for parameter in cast.parameters() for found in ranges)


def test_what_is_done_to_a_mapped_parameter_stays_in_this_process(converted: Path) -> None:
    before = (converted / "model.safetensors").read_bytes()
    encoder = load(converted)
    encoder.embedding.weight.zero_()
    assert not run(encoder).isnan().any()
    assert (converted / "model.safetensors").read_bytes() == before
    assert load(converted).embedding.weight.any()


def test_a_newer_layout_is_refused_by_both_readers(converted: Path) -> None:
    described = json.loads((converted / "config.json").read_text())
    (converted / "config.json").write_text(json.dumps(described | {"t5enc_layout": "fused/2"}))
    with pytest.raises(CheckpointError, match="expected fused/1, got 'fused/2'"):
        open_checkpoint(converted)
    with pytest.raises(CheckpointError, match="expected fused/1, got 'fused/2'"):
        hf.T5EncoderModel.from_pretrained(converted)


def test_missing_unexpected_and_misshapen_tensors_are_named(converted: Path) -> None:
    state = load_file(converted / "model.safetensors")
    lost = "encoder.block.1.attention.output.weight"
    save_file(
        {name: tensor for name, tensor in state.items() if name != lost} | {"encoder.extra": torch.zeros(1)},
        converted / "model.safetensors",
    )
    with pytest.raises(CheckpointError, match=f"{lost}: missing\n.*encoder.extra: unexpected"):
        load(converted)
    save_file(state | {lost: torch.zeros(3, 64)}, converted / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{lost}: expected \(64, 48\), got \(3, 64\)"):
        load(converted)


def test_one_file_of_a_converted_folder_is_not_a_checkpoint(converted: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the folder that `t5enc convert` wrote"):
        open_checkpoint(converted / "model.safetensors")
