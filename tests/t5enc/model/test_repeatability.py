"""deterministic=True: the same bits whatever else is encoded, in whatever order, under whatever budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.model import repeatability
from t5enc.model.repeatability import find_floor
from t5enc.text_encoder import TextEncoder
from tests.t5enc.conftest import Make
from tests.t5enc.reference import random_ids

BUDGETS = (256, 300, 1024, 2048)
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "wide": {"d_model": 256, "d_ff": 512, "num_heads": 4, "d_kv": 64},
    "as wide as base": {"d_model": 768, "d_ff": 2048, "num_heads": 12, "d_kv": 64, "num_layers": 1},
}


WIDE_BFLOAT16 = pytest.param("as wide as base", "bfloat16", marks=pytest.mark.long)
CASES = [(model, dtype) for model in MODELS for dtype in ("float32", "bfloat16")]


@pytest.mark.parametrize(("model", "dtype"), [*CASES[:-1], WIDE_BFLOAT16])
def test_a_text_has_the_same_bits_in_any_company(model: str, dtype: str, make: Make) -> None:
    folder = make("t5_v1_1", **MODELS[model]).folder
    options = {"tokenizer": "byt5", "max_length": 256, "dtype": dtype, "deterministic": True}
    encoders = [TextEncoder.from_pretrained(folder, token_budget=budget, **options) for budget in BUDGETS]
    random = np.random.RandomState(0)
    texts = random_ids([1, 1, 1, 2, 2, 3, *random.randint(1, 40, 30), *random.randint(40, 257, 8)])
    alone = [encoders[0].encode_tokens([text]).values for text in texts]
    compared = 0
    while compared < 250:
        company = random.permutation(len(texts))[: random.randint(2, len(texts) + 1)]
        encoder = encoders[random.randint(len(encoders))]
        embeddings = encoder.encode_tokens([texts[index] for index in company])
        unequal = [len(texts[i]) for i, found in zip(company, embeddings, strict=True) if not found.equal(alone[i])]
        assert unequal == []
        compared += len(company)


def test_a_retried_stream_has_the_same_bits(make: Make) -> None:
    encoder = TextEncoder.from_pretrained(make().folder, tokenizer="byt5", deterministic=True)
    bad = 299
    encoder.encoder.embedding.weight[bad] = torch.inf
    texts = random_ids([1, 5, 90], vocab_size=bad)
    encoded = encoder.encode_ragged([*texts, [bad, 1]])
    assert set(encoded.failed) == {3}
    for text, found in zip(texts, encoded.embeddings, strict=False):
        assert torch.equal(encoder.encode_tokens([text]).values, found)


def spoil_products(monkeypatch: pytest.MonkeyPatch, *, below: int) -> None:
    """Products of fewer rows than `below` get other bits."""
    run = repeatability._run_products

    def run_spoilt(block: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
        return run(block, rows, dtype) + (1e-3 if len(rows) < below else 0.0)

    monkeypatch.setattr(repeatability, "_run_products", run_spoilt)


def test_the_floor_is_above_all_products_that_differ(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder.from_pretrained(make().folder, tokenizer="byt5").encoder
    spoil_products(monkeypatch, below=90)
    assert 80 < find_floor(encoder, 512) <= 96


def test_streams_are_padded_to_the_floor(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_products(monkeypatch, below=90)
    encoder = TextEncoder.from_pretrained(make().folder, tokenizer="byt5", deterministic=True)
    encoder.encode_tokens([[5, 1]])
    assert encoder.counters.stream_tokens == 96


def test_a_cpu_without_a_floor_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_products(monkeypatch, below=400)
    with pytest.raises(ConfigError, match=r"^deterministic: expected products whose rows do not depend on their num"):
        TextEncoder.from_pretrained(make().folder, tokenizer="byt5", deterministic=True)


def test_deterministic_encoding_means_sdpa() -> None:
    with pytest.raises(ConfigError, match=r"^deterministic: expected attention auto or sdpa, got flex"):
        TextEncoder.from_pretrained("builtin:tiny", deterministic=True, attention="flex")
