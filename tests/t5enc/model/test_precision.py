"""16-bit encoders: nearer to float32 than transformers in the same dtype, and finite where float16 is not enough."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.model.attention.plan import plan_sdpa
from t5enc.model.precision import input_scale, poison, resolve_dtype, scale_down
from t5enc.text_encoder import TextEncoder
from tests.families import FAMILIES, make_checkpoint
from tests.t5enc.reference import distance, random_ids, reference

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTHS = [1, 5, 17, 40, 90]


def change_weights(folder: Path, change: Any) -> None:
    """Rewrite a checkpoint with `change(name, tensor)` for each tensor."""
    path = folder / "model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def load_theirs(folder: Path, family: str, dtype: torch.dtype) -> Any:
    """The checkpoint as transformers loads it in a dtype."""
    import transformers

    return getattr(transformers, FAMILIES[family]["class"]).from_pretrained(folder, dtype=dtype).eval()


def load_ours(folder: Path, dtype: torch.dtype) -> TextEncoder:
    return TextEncoder.from_pretrained(folder, tokenizer="byt5", dtype=str(dtype))


def far(found: Iterable[Tensor], expected: list[Tensor]) -> float:
    """Relative L2 distance over all tokens: that of a single short text is a matter of luck."""
    return distance([torch.cat(list(found))], [torch.cat(expected)])


@pytest.mark.parametrize("family", ["t5_v1_0", "t5_v1_1", "umt5"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_is_nearer_to_float32_than_transformers_is(dtype: torch.dtype, family: str, tmp_path: Path) -> None:
    make_checkpoint(family, tmp_path, num_layers=12)
    change_weights(tmp_path, lambda name, tensor: tensor.bfloat16().float())
    texts = random_ids(LENGTHS)
    expected = reference(load_theirs(tmp_path, family, torch.float32), texts)
    theirs = reference(load_theirs(tmp_path, family, dtype), texts)
    ours = load_ours(tmp_path, dtype).encode_tokens(texts)
    assert far(ours, expected) < far(theirs, expected)


@pytest.mark.parametrize("family", ["t5_v1_0", "t5_v1_1"])
def test_float16_holds_feed_forward_outputs_beyond_its_range(family: str, tmp_path: Path) -> None:
    make_checkpoint(family, tmp_path)
    gains = {"wi": 200, "wi_1": 200, "wo": 300}
    change_weights(tmp_path, lambda name, tensor: (tensor * gains.get(name.split(".")[-2], 1)).bfloat16().float())
    texts = random_ids(LENGTHS)
    theirs = load_theirs(tmp_path, family, torch.float32)
    largest = []
    for block in theirs.encoder.block:
        block.layer[1].DenseReluDense.register_forward_hook(lambda *args: largest.append(args[2].abs().max().item()))
    expected = reference(theirs, texts)
    assert max(largest) > 2 * torch.finfo(torch.float16).max
    assert not far(reference(theirs.half(), texts), expected) < 2e-2
    assert far(load_ours(tmp_path, torch.float16).encode_tokens(texts), expected) < 2e-3


def test_the_residual_stream_is_float32_whatever_computes(tmp_path: Path) -> None:
    make_checkpoint("t5_v1_1", tmp_path)
    encoder = load_ours(tmp_path, torch.bfloat16).encoder
    with torch.no_grad():
        hidden = encoder.embed(torch.arange(2, 8))
        assert hidden.dtype == torch.float32
        assert encoder(hidden, plan_sdpa([6])).dtype == torch.float32


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        (None, CPU, torch.float32),
        ("auto", CPU, torch.float32),
        (None, CUDA, torch.bfloat16),
        ("fp16", CPU, torch.float16),
        ("bfloat16", CPU, torch.bfloat16),
        ("torch.float32", CUDA, torch.float32),
        (torch.float16, CUDA, torch.float16),
    ],
)
def test_dtypes_have_the_names_that_people_give_them(
    asked: str | torch.dtype | None, device: torch.device, expected: torch.dtype
) -> None:
    assert resolve_dtype(asked, device) == expected


@pytest.mark.parametrize("asked", ["int8", "float64", torch.int32, ""])
def test_a_dtype_that_cannot_compute_is_refused(asked: str | torch.dtype) -> None:
    with pytest.raises(ConfigError, match=r"^dtype: expected auto or one of float32, bfloat16, float16, got"):
        resolve_dtype(asked, CPU)


def test_only_float16_is_scaled() -> None:
    values = torch.tensor([2.0**21])
    assert scale_down(values, torch.float16).item() == 2.0**15
    assert scale_down(values, torch.bfloat16).item() == 2.0**21
    assert [input_scale(dtype) for dtype in (torch.float32, torch.bfloat16)] == [1.0, 1.0]


def test_poison_is_zero_where_sums_are_finite() -> None:
    found = poison(torch.tensor([0.0, 3e38, torch.inf, torch.nan]))
    assert found[:2].tolist() == [0.0, 0.0]
    assert found[2:].isnan().all()
