"""What is saved is transformers' own layout, bit for bit, and everything that it loads is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from t5enc.errors import ConfigError
from tests.families import FAMILIES
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import Pair, draw_batch, encode, load, relative
from tests.t5enc.reference import ROUNDING


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_gives_transformers_the_same_bits_in_its_own_layout(family: str, make: Make, tmp_path: Path) -> None:
    folder, theirs = make(family)
    ours = load(family, folder)
    ours.save_pretrained(tmp_path)
    written, expected = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert set(written) == set(expected)
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [FAMILIES[family]["class"]]
    # transformers' own class in this very process is left as it was
    again = type(theirs).from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "theirs")
    assert set(load_file(tmp_path / "theirs" / "model.safetensors")) == set(expected)
    assert torch.equal(encode(again.eval(), *draw_batch()), encode(theirs, *draw_batch()))
    assert torch.equal(encode(ours.to_transformers(), *draw_batch()), encode(theirs, *draw_batch()))
    assert torch.equal(encode(load(family, tmp_path), *draw_batch()), encode(ours, *draw_batch()))


def test_an_untrained_model_is_saved_as_well(pair: Pair, tmp_path: Path) -> None:
    model = type(pair.ours)(pair.ours.config)
    model.save_pretrained(tmp_path)
    again = type(pair.theirs).from_pretrained(tmp_path)
    expected = model.to_transformers().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_shards_variants_and_subfolders_load(pair: Pair, tmp_path: Path) -> None:
    ids, mask = draw_batch()
    expected = encode(pair.theirs, ids, mask)
    pair.ours.save_pretrained(tmp_path / "text_encoder", max_shard_size="100KB", variant="fp32")
    assert len(list((tmp_path / "text_encoder").glob("*.safetensors"))) > 1
    options = {"subfolder": "text_encoder", "variant": "fp32"}
    for model in (type(pair.ours), type(pair.theirs)):
        assert relative(encode(model.from_pretrained(tmp_path, **options).eval(), ids, mask), expected) < ROUNDING


@pytest.mark.parametrize("options", [{"torch_dtype": torch.float16}, {"dtype": "float16"}, {"dtype": torch.float16}])
def test_every_weight_has_the_dtype_asked_for(options: dict[str, Any], pair: Pair) -> None:
    model = type(pair.ours).from_pretrained(pair.folder, **options)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert model.config.dtype == torch.float16


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, {"shared": "cpu", "encoder": "cpu"}])
def test_device_maps_are_honoured(device_map: Any, pair: Pair) -> None:
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    ids, mask = draw_batch()
    model = type(pair.ours).from_pretrained(pair.folder, device_map=device_map).eval()
    assert relative(encode(model, ids, mask), encode(pair.theirs, ids, mask)) < ROUNDING


def test_state_dicts_of_both_layouts_load(pair: Pair) -> None:
    for state in (pair.ours.state_dict(), pair.theirs.state_dict()):
        fresh = type(pair.ours)(pair.ours.config)
        fresh.load_state_dict(state)
        assert all(torch.equal(tensor, pair.ours.state_dict()[name]) for name, tensor in fresh.state_dict().items())
    incomplete = dict(pair.theirs.state_dict())
    del incomplete["encoder.block.1.layer.0.SelfAttention.k.weight"]
    with pytest.raises(RuntimeError, match=r"encoder\.block\.1\.layer\.0\.SelfAttention\.k\.weight"):
        fresh.load_state_dict(incomplete)


@pytest.mark.parametrize("option", ["quantization_config", "load_in_8bit"])
def test_quantized_loading_is_refused_by_name(option: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=rf"^{option}: expected none"):
        load("t5_v1_1", make().folder, **{option: {"bits": 8}})
