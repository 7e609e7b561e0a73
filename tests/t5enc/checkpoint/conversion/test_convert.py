"""Conversion: whatever the source, the fused layout encodes to the same bits, with its tokenizer beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import t5enc.hf as hf
from t5enc.checkpoint.builtin import ASSETS, sample_captions, write_builtin
from t5enc.checkpoint.convert import convert
from t5enc.text_encoder import TextEncoder
from tests.families import FAMILIES
from tests.t5enc.checkpoint.conversion.converted_encoders import LENGTHS, class_of, load, metadata_of, run, same_tensors
from tests.t5enc.checkpoint.test_layouts import make_state, quantize
from tests.t5enc.conftest import Make
from tests.t5enc.reference import ROUNDING, distance, random_ids

TOKENIZER = str(ASSETS / "tiny.model")


def encode(folder: Path, **options: Any) -> Tensor:
    """What TextEncoder makes of random ids."""
    return TextEncoder.from_pretrained(folder, tokenizer=TOKENIZER, **options).encode_tokens(random_ids(LENGTHS)).values


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
