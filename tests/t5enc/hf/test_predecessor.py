"""The faults of nai-t5-wrapper 1.1.0 that touch the encoder, each as what happens here instead.

The numbers are those of the list of its faults that this was written against: its own behaviour, seen by running it,
stands beside each in brackets.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError
from t5enc.hf import T5EncoderModel, UMT5EncoderModel
from tests.families import make_checkpoint
from tests.t5enc.conftest import FLEX, Make
from tests.t5enc.reference import ROUNDING

LAYER = "encoder.block.{}.layer.1.DenseReluDense.{}.weight"


@torch.no_grad()
def encode(model: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    hidden: Tensor = model.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    return hidden.float()


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def draw(rows: int, length: int) -> Tensor:
    return torch.randint(2, 300, (rows, length), generator=torch.Generator().manual_seed(0))


def right_padded(lengths: Sequence[int], length: int) -> Tensor:
    return (torch.arange(length) < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("attention", ["sdpa", FLEX])
def test_01_float16_stays_finite_past_its_range(attention: str, tmp_path: Path, compiler: None) -> None:
    """An FFN output past 65504 [half of the values not finite]."""
    theirs = make_checkpoint("t5_v1_1", tmp_path, num_layers=8)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for layer in (2, 5):
        tensors[LAYER.format(layer, "wi_1")] *= 200
        tensors[LAYER.format(layer, "wo")] *= 300
    save_file({name: tensor.bfloat16().float() for name, tensor in tensors.items()}, path, {"format": "pt"})
    theirs = type(theirs).from_pretrained(tmp_path)
    largest: list[float] = []
    for block in theirs.encoder.block:
        block.layer[1].DenseReluDense.register_forward_hook(lambda *call: largest.append(float(call[2].abs().max())))
    ids, mask = draw(4, 30), right_padded([30, 1, 9, 20], 30)
    expected = encode(theirs, ids, mask)
    assert max(largest) > torch.finfo(torch.float16).max
    model = T5EncoderModel.from_pretrained(tmp_path, dtype=torch.float16, attn_implementation=attention)
    assert distance(encode(model, ids, mask), expected) < 2e-3
    plain = model.to_transformers()
    plain.set_attn_implementation("sdpa")
    assert distance(encode(plain, ids, mask), expected) < 2e-3


@pytest.mark.long
def test_02_flex_never_runs_uncompiled(make: Make, compiler: None) -> None:
    """[the default on a GPU, ten times slower than anything]"""
    model = T5EncoderModel.from_pretrained(make("t5_v1_1").folder)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("flex_attention")
    encode(model, draw(2, 9))
    assert model.compiled_graphs == 1


@pytest.mark.parametrize("attention", ["sdpa", FLEX])
def test_03_pads_equal_transformers(attention: str, make: Make, compiler: None) -> None:
    """[0.7 to 1.15 away]"""
    folder, theirs = make("umt5")
    model = UMT5EncoderModel.from_pretrained(folder, attn_implementation=attention)
    ids, mask = draw(3, 20), right_padded([20, 3, 11], 20)
    pads = ~mask.bool()
    assert distance(encode(model, ids, mask)[pads], encode(theirs, ids, mask)[pads]) < ROUNDING


@pytest.mark.parametrize("attention", ["sdpa", FLEX])
@pytest.mark.parametrize("length", [511, 513, 700])
def test_04_any_length_works(length: int, attention: str, make: Make, compiler: None) -> None:
    """[IndexError, or a read out of bounds on a GPU, past max_seq_len]"""
    folder, theirs = make("t5_v1_1")
    model = T5EncoderModel.from_pretrained(folder, attn_implementation=attention)
    ids = draw(1, length)
    assert distance(encode(model, ids), encode(theirs, ids)) < ROUNDING


@pytest.mark.parametrize("max_distance", [20, 64, 256])
def test_05_the_distance_of_the_config_is_used(max_distance: int, make: Make) -> None:
    """[always 128]"""
    folder, theirs = make("t5_v1_1", relative_attention_max_distance=max_distance)
    ids = draw(1, 300)
    assert distance(encode(T5EncoderModel.from_pretrained(folder), ids), encode(theirs, ids)) < ROUNDING


@pytest.mark.parametrize("projection", ["gated-silu", "gelu", "silu", "gated-relu"])
def test_06_every_activation_is_its_own(projection: str, make: Make) -> None:
    """[gated ones all computed as gelu, an ungated gelu a KeyError]"""
    folder, theirs = make("t5_v1_1", feed_forward_proj=projection)
    ids = draw(2, 15)
    assert distance(encode(T5EncoderModel.from_pretrained(folder), ids), encode(theirs, ids)) < ROUNDING
    with pytest.raises(ConfigError, match=r"^feed_forward_proj: expected NAME or gated-NAME of relu"):
        EncoderConfig.from_hf({"model_type": "t5", "feed_forward_proj": "gated-tanh"})


@pytest.mark.parametrize("attention", ["sdpa", FLEX])
def test_07_and_08_packed_documents_do_not_see_each_other(attention: str, make: Make, compiler: None) -> None:
    """A 3-D mask [ValueError under Flex; documents packed end to end given up]; each document as if alone."""
    folder, theirs = make("t5_v1_1")
    model = T5EncoderModel.from_pretrained(folder, attn_implementation=attention)
    ids = draw(2, 24)
    documents = torch.tensor([[0] * 9 + [1] * 15, [0] * 4 + [1] * 8 + [2] * 12])
    found = encode(model, ids, documents[:, :, None] == documents[:, None, :])
    for row, numbers in enumerate(documents):
        for number in numbers.unique():
            place = numbers == number
            assert distance(found[row][place], encode(theirs, ids[row][place][None])[0]) < ROUNDING
    assert attention == "sdpa" or model.compiled_graphs == 1


def test_18_and_25_fusing_norms_is_elementwise_and_loses_no_scale(tmp_path: Path) -> None:
    """[14 of 19.6 seconds of a load go into products with diagonal matrices of D x D]"""
    theirs = make_checkpoint("t5_v1_1", tmp_path, d_model=1024, num_heads=2, d_ff=64, num_layers=1)
    model = T5EncoderModel.from_pretrained(tmp_path)
    before = copy.deepcopy(model.encoder.block[0].attention.qkv.weight.detach())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model.fuse_norms()
    assert not [
        event.key for event in profile.key_averages() if event.key in ("aten::mm", "aten::matmul", "aten::linear")
    ]
    scale = theirs.encoder.block[0].layer[0].layer_norm.weight.detach()
    torch.testing.assert_close(model.encoder.block[0].attention.qkv.weight.detach(), before * scale)
    ids = draw(2, 15)
    assert distance(encode(model, ids), encode(theirs, ids)) < ROUNDING


def test_22_and_23_an_import_needs_nothing_optional_and_warns_of_nothing() -> None:
    """[transformers only an extra of the quick start; a pydantic warning at import]"""
    code = "import t5enc.hf, sys; assert not {'pydantic', 'diffusers', 'ray'} & set(sys.modules)"
    environment = os.environ | {"PYTHONWARNINGS": "error::DeprecationWarning:t5enc,error::UserWarning:t5enc"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_24_the_interface_has_no_gaps(make: Make) -> None:
    """[no positional dtype, stored dtype, no recurse, no config of transformers, no save, no outputs by name]

    The tests in `drop_ins` try each in detail.
    """
    model = T5EncoderModel.from_pretrained(make("t5_v1_1").folder)
    assert model.to(torch.float16).dtype == torch.float16
    assert model.half().float().dtype == torch.float32
    assert list(model.parameters(recurse=False)) == []
    assert (model.config.d_model, model.config.hidden_size, model.config.model_type) == (64, 64, "t5")
    assert {"last_hidden_state"} == set(model(draw(1, 3)).keys())
    assert not model.eval().training
    assert model.train().training


@pytest.mark.parametrize("attention", ["sdpa", FLEX])
def test_26_the_ninth_length_compiles(attention: str, make: Make, compiler: None) -> None:
    """[FailOnRecompileLimitHit, and the model is unusable for it] Flex: rungs of 16 tokens here."""
    folder, theirs = make("t5_v1_1")
    model = T5EncoderModel.from_pretrained(folder, attn_implementation=attention).compile()
    for length in range(2, 30, 2):
        ids = draw(1, length)
        assert distance(encode(model, ids), encode(theirs, ids)) < ROUNDING
    assert model.compiled_graphs <= 3


def test_28_flex_holds_no_bias_of_all_positions(make: Make) -> None:
    """[a dense bias of heads x length x length for each table; 805 MB for UMT5-XXL at 512]"""
    model = UMT5EncoderModel.from_pretrained(make("umt5").folder)
    buffers = {name: buffer.numel() for name, buffer in model.named_buffers()}
    assert sum(buffers.values()) <= 2 * 128 + 1
    assert model.encoder.relative_bias().shape[-1] == 2 * model.encoder.relative_bias.reach + 1


def test_29_there_are_gradients(make: Make) -> None:
    """[always under no_grad]"""
    model = T5EncoderModel.from_pretrained(make("t5_v1_1").folder)
    model(draw(1, 5)).last_hidden_state.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_30_a_block_mask_is_made_on_the_host_in_one_go() -> None:
    """[evaluated over all queries and keys at every call] 16,384 tokens: no T x T table ever exists."""
    from t5enc.model.attention.masks import document_mask

    tracemalloc.start()
    document_mask([64] * 256, 16384, block_size=128, device=torch.device("cpu"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
