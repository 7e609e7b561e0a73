"""How a conversion is written: a tensor at a time, in shards that say where they come from, whole or not at all."""

from __future__ import annotations

import json
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import t5enc.hf as hf
from t5enc.checkpoint.builtin import open_builtin
from t5enc.checkpoint.convert import convert, parse_size
from t5enc.checkpoint.tensor_files import LazyTensors
from t5enc.errors import CheckpointError, ConfigError, OutputError
from tests.t5enc.checkpoint.conversion.converted_encoders import load, metadata_of, run
from tests.t5enc.conftest import Make


@pytest.mark.parametrize(("fuse_norms", "most"), [(False, 1), (True, 2)])
def test_tensors_are_read_one_at_a_time(
    fuse_norms: bool, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_builtin("tiny-umt5")
    alive, peak = set[int](), 0

    def read(name: str) -> Tensor:
        nonlocal peak
        array = checkpoint.tensors[name].numpy().copy()
        alive.add(key := id(array))
        weakref.finalize(array, alive.discard, key)
        peak = max(peak, len(alive))
        return torch.from_numpy(array)

    lazy = LazyTensors({name: partial(read, name) for name in checkpoint.tensors})
    watched = type(checkpoint)(
        name=checkpoint.name,
        config=checkpoint.config,
        tensors=lazy,
        tokenizer_source=None,
        provenance=checkpoint.provenance,
    )
    monkeypatch.setattr("t5enc.checkpoint.convert.open_model", lambda options: watched)
    convert("watched", tmp_path / "out", fuse_norms=fuse_norms)
    assert peak == most


def test_a_tensor_is_written_in_pieces(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make("t5_v1_1").folder
    convert(source, tmp_path / "whole", fuse_norms=True)
    monkeypatch.setattr("t5enc.checkpoint.weights.COPY_ELEMENTS", 1000)
    convert(source, tmp_path / "pieces", fuse_norms=True)
    whole, pieces = (tmp_path / name / "model.safetensors" for name in ("whole", "pieces"))
    assert whole.read_bytes() == pieces.read_bytes()


def test_shards_hold_all_tensors_and_none_is_too_large(make: Make, tmp_path: Path) -> None:
    source = make("umt5").folder
    done = convert(source, tmp_path / "out", max_shard_size="100KB")
    shards = [name for name in done.files if name.endswith(".safetensors")]
    assert len(shards) > 2
    places = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    held = {name: load_file(tmp_path / "out" / name) for name in shards}
    assert places == {tensor: name for name, tensors in held.items() for tensor in tensors}
    for tensors in held.values():
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 100_000
    assert torch.equal(run(load(tmp_path / "out")), run(load(source)))
    assert isinstance(hf.UMT5EncoderModel.from_pretrained(tmp_path / "out"), hf.UMT5EncoderModel)


def test_the_file_says_where_its_numbers_come_from(make: Make, tmp_path: Path) -> None:
    source = make("t5_v1_1").folder
    convert(source, tmp_path / "out", dtype="bfloat16", fuse_norms=True)
    said = metadata_of(tmp_path / "out" / "model.safetensors")
    assert said["format"] == "pt"
    assert (said["t5enc_layout"], said["norms"]) == ("fused/1", "fused")
    assert (said["source"], said["source_dtypes"], said["dtype"]) == (str(source), "float32", "bfloat16")
    assert len(json.loads(said["source_sha256"])["model.safetensors"]) == 64
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (described["t5enc_layout"], described["t5enc_fused_norms"]) == ("fused/1", True)
    assert described["architectures"] == ["FusedT5EncoderModel"]
    assert (described["model_type"], described["dtype"]) == ("t5", "bfloat16")


def test_a_folder_that_is_not_empty_is_refused_and_with_overwrite_replaced(make: Make, converted: Path) -> None:
    source = make("umt5").folder
    (converted / "notes.txt").write_text("mine")
    (converted / ".converting-stale").mkdir()
    with pytest.raises(OutputError, match="expected an empty folder"):
        convert(source, converted)
    convert(source, converted, max_shard_size="100KB", overwrite=True)
    assert not (converted / "model.safetensors").exists()
    assert not (converted / ".converting-stale").exists()
    assert (converted / "notes.txt").read_text() == "mine"
    assert torch.equal(run(load(converted)), run(load(source)))


def test_the_source_itself_is_no_place_to_write_to(converted: Path) -> None:
    before = (converted / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="expected another folder"):
        convert(converted, converted, dtype="bfloat16", overwrite=True)
    assert (converted / "model.safetensors").read_bytes() == before


def test_a_weight_out_of_range_is_named_and_nothing_stays(make: Make, tmp_path: Path) -> None:
    state = load_file(make("t5_v1_1").folder / "model.safetensors")
    wide = "encoder.block.2.layer.1.DenseReluDense.wo.weight"
    state[wide][5, 7] = 1e6
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=f"{wide}: .* range of float16, got 1e"):
        convert(tmp_path / "a.safetensors", tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_a_scale_of_zero_cannot_be_fused(make: Make, tmp_path: Path) -> None:
    state = load_file(make("t5_v1_1").folder / "model.safetensors")
    state["encoder.block.1.layer.0.layer_norm.weight"][3] = 0
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"layer_norm\.weight: expected no zeros"):
        convert(tmp_path / "a.safetensors", tmp_path / "out", fuse_norms=True)
    convert(tmp_path / "a.safetensors", tmp_path / "out")


def test_a_full_disk_leaves_the_old_checkpoint_as_it_was(
    make: Make, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in converted.iterdir()}
    monkeypatch.setattr("t5enc.checkpoint.convert.write_safetensors", fail)
    with pytest.raises(OutputError, match="No space left"):
        convert(make("umt5").folder, converted, overwrite=True)
    assert {path.name: path.read_bytes() for path in converted.iterdir()} == before


@pytest.mark.parametrize(("size", "expected"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 << 19), ("100kb", 10**5), (7, 7)])
def test_sizes_are_read(size: int | str, expected: int) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["", "GB", "5 potatoes", "-1GB", "0"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match="max_shard_size"):
        parse_size(size)


@pytest.mark.parametrize("dtype", ["auto", "float8", "int8"])
def test_a_dtype_that_cannot_be_written_is_refused(dtype: str, make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype: expected"):
        convert(make("t5_v1_1").folder, tmp_path / "out", dtype=dtype)
