"""A text whose activations leave their range fails alone, and its neighbours are as they are without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from t5enc.errors import PrecisionError
from t5enc.text_encoder import TextEncoder
from tests.families import FAMILIES, make_checkpoint
from tests.t5enc.conftest import load
from tests.t5enc.reference import ROUNDING, distance, random_ids, reference

BAD_TOKEN = 77
LAYERS = FAMILIES["t5_v1_1"]["num_layers"]


def keep_alone(weights: dict[str, Tensor]) -> None:
    """Make the first channel of the residual the bad token's own: no other token has it, no layer writes to it."""
    weights["shared.weight"][:, 0] = 0
    weights["shared.weight"][BAD_TOKEN] = torch.eye(1, weights["shared.weight"].shape[1])[0] * 8
    for name, tensor in weights.items():
        if name.endswith((".o.weight", ".wo.weight")):
            tensor[0] = 0


def overflow_embedding(weights: dict[str, Tensor]) -> None:
    weights["shared.weight"][BAD_TOKEN] = torch.inf


def overflow_norm(weights: dict[str, Tensor]) -> None:
    weights["shared.weight"][BAD_TOKEN] = 1e30


def overflow_logits(weights: dict[str, Tensor]) -> None:
    keep_alone(weights)
    for part in "qk":
        weights[f"encoder.block.{LAYERS - 1}.layer.0.SelfAttention.{part}.weight"][:, 0] = 1e19


def overflow_feed_forward(weights: dict[str, Tensor]) -> None:
    keep_alone(weights)
    for part in ("wi_0", "wi_1"):
        weights[f"encoder.block.1.layer.1.DenseReluDense.{part}.weight"][:, 0] = 1e25


OVERFLOWS = [overflow_embedding, overflow_norm, overflow_logits, overflow_feed_forward]


def spoil(folder: Path, overflow: Callable[[dict[str, Tensor]], None]) -> Any:
    """A checkpoint in which one token overflows; returns transformers' model of it."""
    import transformers

    make_checkpoint("t5_v1_1", folder)
    weights = load_file(folder / "model.safetensors")
    overflow(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return transformers.T5EncoderModel.from_pretrained(folder)


def assert_fails_alone(encoder: TextEncoder, model: Any, tolerance: float) -> None:
    good = random_ids([4, 4, 7, 9], vocab_size=BAD_TOKEN)
    bad = np.array([5, BAD_TOKEN, 6, 1], dtype=np.int32)
    texts = [good[0], bad, good[1], good[2], bad, good[3]]
    encoded = encoder.encode_ragged(texts)
    assert set(encoded.failed) == {1, 4}
    assert encoder.counters.retried_streams == 1
    neighbours = [encoded.embeddings[index] for index in (0, 2, 3, 5)]
    assert distance(neighbours, reference(model, good)) < tolerance
    with pytest.raises(PrecisionError, match=r"^2 text\(s\) could not be encoded: texts\[1\]: activations left the ra"):
        encoder.encode_tokens(texts)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", ROUNDING), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_a_text_that_overflows_fails_alone(
    overflow: Callable[[dict[str, Tensor]], None], dtype: str, tolerance: float, tmp_path: Path
) -> None:
    model = spoil(tmp_path, overflow)
    assert_fails_alone(load(tmp_path, dtype=dtype), model, tolerance)


@pytest.mark.parametrize(
    "overflow", [OVERFLOWS[0], *(pytest.param(one, marks=pytest.mark.long) for one in OVERFLOWS[1:])]
)
def test_a_text_that_overflows_fails_alone_in_a_flex_stream(
    overflow: Callable[[dict[str, Tensor]], None], tmp_path: Path, compiler: None
) -> None:
    model = spoil(tmp_path, overflow)
    encoder = load(tmp_path, attention="flex", max_length=64, token_budget=64)
    assert_fails_alone(encoder, model, ROUNDING)


def test_float16_fails_where_float32_would_not(tmp_path: Path) -> None:
    def overflow_float16(weights: dict[str, Tensor]) -> None:
        keep_alone(weights)
        for part in ("wi_0", "wi_1"):
            weights[f"encoder.block.1.layer.1.DenseReluDense.{part}.weight"][:, 0] = 2e4

    model = spoil(tmp_path, overflow_float16)
    assert_fails_alone(load(tmp_path, dtype="float16"), model, 5e-3)
    bad = [[5, BAD_TOKEN, 6, 1]]
    assert not load(tmp_path).encode_ragged(bad).failed


def test_an_embedding_that_its_dtype_cannot_hold_says_so(tmp_path: Path) -> None:
    def enlarge(weights: dict[str, Tensor]) -> None:
        weights["encoder.final_layer_norm.weight"] *= 1e6

    spoil(tmp_path, enlarge)
    encoded = load(tmp_path).encode_ragged([[5, 6, 1]], dtype=torch.float16)
    assert encoded.failed == {0: "embedding is out of the range of float16"}
