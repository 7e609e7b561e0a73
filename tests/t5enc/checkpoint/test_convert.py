"""Conversion: the fused layout encodes to the same bits, is mapped, and is written whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import t5enc.hf as hf
from t5enc.checkpoint.builtin import ASSETS, open_builtin, sample_captions, write_builtin
from t5enc.checkpoint.convert import convert, parse_size
from t5enc.checkpoint.opening import open_checkpoint
from t5enc.checkpoint.tensor_files import LazyTensors
from t5enc.checkpoint.weights import load_encoder
from t5enc.errors import CheckpointError, ConfigError, OutputError
from t5enc.model.attention.plan import plan_sdpa
from t5enc.model.encoder import Encoder
from t5enc.text_encoder import TextEncoder
from tests.families import FAMILIES
from tests.t5enc.checkpoint.test_layouts import make_state, quantize
from tests.t5enc.conftest import Make
from tests.t5enc.reference import ROUNDING, distance, random_ids

CPU = torch.device("cpu")
LENGTHS = (1, 7, 33, 33, 80)
TOKENIZER = str(ASSETS / "tiny.model")


def load(folder: Path, dtype: torch.dtype = torch.float32, *, pack: bool = False) -> Encoder:
    checkpoint = open_checkpoint(folder)
    return load_encoder(checkpoint.config, checkpoint.tensors, dtype=dtype, device=CPU, pack=pack)


@torch.no_grad()
def run(encoder: Encoder) -> Tensor:
    ids = random_ids(LENGTHS)
    return encoder(encoder.embed(torch.from_numpy(np.concatenate(ids)).long()), plan_sdpa(LENGTHS, sum(LENGTHS)))  # type: ignore[no-any-return]


def encode(folder: Path, **options: Any) -> Tensor:
    """What TextEncoder makes of random ids."""
    return TextEncoder.from_pretrained(folder, tokenizer=TOKENIZER, **options).encode_tokens(random_ids(LENGTHS)).values


def class_of(family: str, module: Any) -> Any:
    return getattr(module, FAMILIES[family]["class"])


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of files are kept there."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def converted(make: Make, tmp_path: Path) -> Path:
    """t5_v1_1, fused."""
    convert(make("t5_v1_1").folder, tmp_path / "fused")
    return tmp_path / "fused"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_checkpoint_encodes_to_the_same_bits(family: str, make: Make, tmp_path: Path) -> None:
    source = make(family).folder
    convert(source, tmp_path / "out")
    assert torch.equal(encode(tmp_path / "out"), encode(source))
    assert torch.equal(run(load(tmp_path / "out")), run(load(source)))
    assert torch.equal(run(load(tmp_path / "out", pack=True)), run(load(source, pack=True)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_converted_to_16_bit_encodes_as_the_source_cast_at_load(
    family: str, dtype: str, make: Make, tmp_path: Path
) -> None:
    source = make(family).folder
    done = convert(source, tmp_path / "out", dtype=dtype)
    assert done.dtypes == (dtype,)
    assert torch.equal(encode(tmp_path / "out", dtype=dtype), encode(source, dtype=dtype))
    narrow = getattr(torch, dtype)
    assert torch.equal(run(load(tmp_path / "out", narrow)), run(load(source, narrow)))


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_norms_encode_the_same_within_rounding(family: str, make: Make, tmp_path: Path) -> None:
    source = make(family).folder
    done = convert(source, tmp_path / "out", fuse_norms=True)
    assert done.has_fused_norms
    for pack in (False, True):
        encoder = load(tmp_path / "out", pack=pack)
        assert encoder.blocks[0].attention_norm.weight is None
        assert 0 < distance([run(encoder)], [run(load(source, pack=pack))]) < ROUNDING


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


def test_a_converted_checkpoint_can_be_converted_again(make: Make, tmp_path: Path) -> None:
    source = make("umt5").folder
    convert(source, tmp_path / "first")
    convert(tmp_path / "first", tmp_path / "second", dtype="bfloat16", fuse_norms=True)
    convert(source, tmp_path / "direct", dtype="bfloat16", fuse_norms=True)
    stored = [load_file(tmp_path / name / "model.safetensors") for name in ("second", "direct")]
    assert same_tensors(*stored)
    convert(tmp_path / "second", tmp_path / "third")
    assert same_tensors(load_file(tmp_path / "third" / "model.safetensors"), stored[0])
    assert metadata_of(tmp_path / "third" / "model.safetensors")["norms"] == "fused"


@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("family", ["t5_v1_0", "t5_v1_1", "umt5"])
def test_scaled_float8_files_are_multiplied_out(family: str, scale_name: str, tmp_path: Path) -> None:
    stored, meant = quantize(make_state(family, tmp_path)[0], scale_name)
    save_file({"x." + name: tensor for name, tensor in stored.items()}, tmp_path / "fp8.safetensors")
    convert(tmp_path / "fp8.safetensors", tmp_path / "out")
    assert torch.equal(run(load(tmp_path / "out")), run(load(tmp_path / "fp8.safetensors")))
    up = "wi" if family == "t5_v1_0" else "wi_1"
    found = load_file(tmp_path / "out" / "model.safetensors")["encoder.block.1.feed_forward.up.weight"]
    assert torch.equal(found[-96:], meant[f"encoder.block.1.layer.1.DenseReluDense.{up}.weight"])
    assert class_of(family, hf).from_pretrained(tmp_path / "out").dtype == torch.float32


def test_plain_float8_becomes_float32_and_mixed_dtypes_stay(make: Make, tmp_path: Path) -> None:
    state = load_file(make("t5_v1_1").folder / "model.safetensors")
    query, down = "encoder.block.0.layer.0.SelfAttention.o.weight", "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    save_file(
        state | {query: state[query].to(torch.float8_e4m3fn), down: state[down].half()}, tmp_path / "a.safetensors"
    )
    done = convert(tmp_path / "a.safetensors", tmp_path / "out")
    assert done.dtypes == ("float16", "float32")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(stored["encoder.block.0.attention.output.weight"], state[query].to(torch.float8_e4m3fn).float())
    assert stored["encoder.block.0.feed_forward.down.weight"].dtype == torch.float16
    assert torch.equal(run(load(tmp_path / "out")), run(load(tmp_path / "a.safetensors")))


@pytest.mark.parametrize("name", ["tiny", "tiny-umt5", "tiny-mt5", "tiny-byt5"])
def test_built_in_models_are_written_with_tokenizers_that_transformers_loads(name: str, tmp_path: Path) -> None:
    captions = sample_captions()[:40]
    convert(f"builtin:{name}", tmp_path / "out")
    ours, source = TextEncoder.from_pretrained(tmp_path / "out"), TextEncoder.from_pretrained(f"builtin:{name}")
    assert torch.equal(ours.encode(captions).values, source.encode(captions).values)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(captions).input_ids == [ids.tolist() for ids in source.tokenize(captions).ids]


def test_tokenizer_files_are_copied(tmp_path: Path) -> None:
    write_builtin("builtin:tiny", tmp_path / "source")
    done = convert(tmp_path / "source", tmp_path / "out")
    assert done.has_tokenizer
    for name in ("spiece.model", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()


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


def test_the_command_converts_and_its_help_loads_nothing_heavy(make: Make, tmp_path: Path) -> None:
    script = "import sys, t5enc.cli\ntry: t5enc.cli.main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    helped = subprocess.run([sys.executable, "-c", script, "convert", "--help"], capture_output=True, check=False)
    assert helped.returncode == 0, helped.stderr
    command = [sys.executable, "-m", "t5enc", "convert", str(make("t5_v1_1").folder), str(tmp_path / "out")]
    done = subprocess.run([*command, "--dtype", "bfloat16"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "MB of weights in bfloat16" in done.stdout
    assert "no tokenizer files" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "expected an empty folder" in again.stderr
    assert "Traceback" not in again.stderr
