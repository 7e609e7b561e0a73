"""Weights that are elsewhere between the calls of their layers: accelerate's hooks and diffusers' groups.

A CPU has nowhere to offload to, so what should be away is made unusable: on the meta device, or NaN in memory while
the numbers lie on disk. A weight that is used outside its layer's forward shows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from t5enc import hf
from t5enc.errors import ConfigError
from t5enc.hf import stack
from tests.t5enc.conftest import FLEX, Make
from tests.t5enc.reference import ROUNDING, distance

accelerate = pytest.importorskip("accelerate", reason="needs accelerate (pip install t5enc[diffusers])")
hooks = pytest.importorskip("diffusers.hooks", reason="needs diffusers (pip install t5enc[diffusers])")

CPU = torch.device("cpu")
MODELS = {"t5_v1_1": hf.T5EncoderModel, "mt5": hf.MT5EncoderModel, "umt5": hf.UMT5EncoderModel}
IDS = torch.tensor([[5, 9, 17, 44, 3, 1, 0, 0], [7, 8, 91, 250, 33, 12, 6, 1]])
MASK = IDS.ne(0).long()


def offload_whole(model: Any, _: Path) -> None:
    """accelerate's hook on the model, as model offload of pipelines sets it."""
    accelerate.cpu_offload_with_hook(model, CPU)


def offload_modules(model: Any, _: Path) -> None:
    """accelerate's hook on every module that has weights, as sequential offload of pipelines sets it."""
    accelerate.cpu_offload(model, CPU)
    assert all(parameter.is_meta for parameter in model.parameters())


def offload_to_disk(model: Any, folder: Path) -> None:
    """accelerate's hook on every module that has weights, which are in files."""
    accelerate.disk_offload(model, folder, CPU)
    assert all(parameter.is_meta for parameter in model.parameters())


def group_model(model: Any, folder: Path) -> None:
    """diffusers' group offload of blocks, which finds none at the top: one group."""
    group(model, folder, offload_type="block_level", num_blocks_per_group=1)


def group_blocks(model: Any, folder: Path) -> None:
    """diffusers' group offload of the encoder's blocks, two a group."""
    group(model, folder, offload_type="block_level", num_blocks_per_group=2, block_modules=["encoder"])


def group_leaves(model: Any, folder: Path) -> None:
    """diffusers' group offload of every layer; not of `shared`, since it loses tied weights on disk, whosever."""
    group(model.encoder, folder, offload_type="leaf_level")


def group(module: Any, folder: Path, **options: Any) -> None:
    """Weights on disk, and NaN in memory until they are loaded."""
    hooks.apply_group_offloading(module, CPU, CPU, offload_to_disk_path=str(folder), **options)
    for parameter in module.parameters():
        parameter.data.fill_(torch.nan)


Offload = Callable[[Any, Path], None]
OFFLOADS: list[Offload] = [
    offload_whole,
    offload_modules,
    offload_to_disk,
    group_model,
    group_blocks,
    group_leaves,
]


@torch.no_grad()
def encode(model: Any) -> Tensor:
    """(2, 8, M) hidden states, pads included."""
    return model(IDS, attention_mask=MASK).last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("family", MODELS)
def test_offloaded_weights_give_the_same_numbers(make: Make, tmp_path: Path, family: str, offload: Offload) -> None:
    model = MODELS[family].from_pretrained(make(family).folder)
    expected = encode(model)

    offload(model, tmp_path)

    assert distance([encode(model), encode(model)], [expected, expected]) < ROUNDING
    assert model.dtype == torch.float32


@pytest.mark.parametrize("offload", OFFLOADS)
def test_fused_norms_can_be_offloaded(make: Make, tmp_path: Path, offload: Offload) -> None:
    model = hf.T5EncoderModel.from_pretrained(make().folder).fuse_norms()
    expected = encode(model)

    offload(model, tmp_path)

    assert distance([encode(model)], [expected]) < ROUNDING


@pytest.mark.parametrize("offload", [offload_modules, group_leaves])
def test_hooks_inside_blocks_run_eager_and_say_so_once(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, offload: Offload
) -> None:
    model = hf.T5EncoderModel.from_pretrained(make().folder, attn_implementation="flex_attention").compile()
    offload(model, tmp_path)
    stack._say_eager.cache_clear()

    with caplog.at_level(logging.WARNING, "t5enc.hf.stack"):
        found = [encode(model), encode(model)]

    assert distance(found, [encode(make().model)] * 2) < ROUNDING
    assert model.compiled_graphs == 0
    assert [record.name for record in caplog.records] == ["t5enc.hf.stack"]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("attention", ["sdpa", FLEX])
def test_hooks_on_blocks_leave_them_compiled(make: Make, tmp_path: Path, attention: str) -> None:
    model = hf.T5EncoderModel.from_pretrained(make().folder, attn_implementation=attention).compile()
    group_blocks(model, tmp_path)

    found = [encode(model)]
    graphs = model.compiled_graphs
    found.append(encode(model))

    assert distance(found, [encode(make().model)] * 2) < ROUNDING
    assert model.compiled_graphs == graphs > 0


@pytest.fixture
def half_on_disk(make: Make, tmp_path: Path) -> Any:
    """A model that memory has no place for."""
    model = hf.T5EncoderModel.from_pretrained(
        make().folder, device_map="auto", max_memory={"cpu": 300_000}, offload_folder=tmp_path / "offloaded"
    )
    assert {"cpu", "disk"} == set(model.hf_device_map.values())
    return model


def test_a_device_map_with_disk_gives_the_same_numbers(make: Make, half_on_disk: Any) -> None:
    assert distance([encode(half_on_disk)], [encode(make().model)]) < ROUNDING


def test_a_model_half_on_disk_is_saved_whole(make: Make, half_on_disk: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="offloaded modules"):
        half_on_disk.save_pretrained(tmp_path / "saved")

    saved = type(make().model).from_pretrained(tmp_path / "saved")
    assert all(torch.equal(saved.state_dict()[name], weight) for name, weight in make().model.state_dict().items())


def test_offloaded_weights_are_not_converted(half_on_disk: Any) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.block\.\S+: expected weights in memory, got offloaded ones"):
        half_on_disk.to_transformers()


def test_weights_come_back_when_hooks_are_removed(make: Make) -> None:
    model = hf.T5EncoderModel.from_pretrained(make().folder)
    accelerate.cpu_offload(model, CPU)
    accelerate.hooks.remove_hook_from_module(model, recurse=True)

    assert distance([encode(model.to_transformers())], [encode(make().model)]) == 0
