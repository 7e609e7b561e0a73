"""Memory on paper is the memory that a forward takes, and the budget that follows from it fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper.memory_table import XXL, make_memory_table
from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError
from t5enc.model import precision
from t5enc.model.attention.plan import plan_flex, plan_sdpa
from t5enc.model.encoder import Encoder
from t5enc.model.memory import (
    GIB,
    USABLE,
    choose_budget,
    count_fixed_bytes,
    count_token_bytes,
    count_weight_bytes,
    list_budgets,
)
from t5enc.options import EncoderOptions
from t5enc.text_encoder import TextEncoder
from tests.t5enc.conftest import Make
from tests.t5enc.hf.live_bytes import LiveBytes, measure_allocator
from tests.t5enc.reference import ROUNDING, distance, random_ids

LENGTH = 64
SHAPES: dict[str, dict[str, Any]] = {
    "as T5-XXL": {"d_model": 256, "d_ff": 640, "num_heads": 4},
    "wide attention": {"d_model": 256, "d_ff": 128, "num_heads": 12},
    "not gated": {"d_model": 256, "d_ff": 1024, "num_heads": 4, "feed_forward_proj": "relu"},
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make_config(**fields: Any) -> EncoderConfig:
    return EncoderConfig.from_hf(XXL | {"vocab_size": 100, "num_layers": 3} | fields)


def make_encoder(config: EncoderConfig, dtype: torch.dtype, device: str = "cpu") -> Encoder:
    with torch.device("meta"):
        encoder = Encoder(config, dtype).eval().requires_grad_(False)
    buckets = encoder.relative_bias.buckets
    encoder = encoder.to_empty(device=device).to(dtype)
    encoder.relative_bias.buckets = buckets.to(device)
    for parameter in encoder.parameters():
        parameter.data.zero_()
    return encoder


def forward(encoder: Encoder, tokens: int, attention: str) -> None:
    """What TextEncoder does with a stream, the embedded texts alive until the end."""
    lengths = [LENGTH] * (tokens // LENGTH)
    device = encoder.embedding.weight.device
    if attention == "sdpa":
        plan = plan_sdpa(lengths)
    else:
        plan = plan_flex(lengths, tokens, block_size=64 if device.type == "cpu" else 128, device=device)
    embedded = encoder.embed(torch.zeros(tokens, dtype=torch.int64, device=device))
    encoder(embedded, plan)
    del embedded


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_token_on_paper_is_a_token_of_an_eager_forward(
    shape: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer stream takes as much more as is said: no less than 80 % of it, and no more."""
    monkeypatch.setattr(precision, "EMULATES_FLOAT16", False)  # cards do not
    config = make_config(**SHAPES[shape])
    encoder = make_encoder(config, dtype)
    peaks = []
    for tokens in (256, 768):
        with LiveBytes(*encoder.parameters(), *encoder.buffers()) as counted:
            forward(encoder, tokens, "sdpa")
        peaks.append(counted.peak)
    found = (peaks[1] - peaks[0]) / 512
    assert 0.8 * count_token_bytes(config, dtype, "sdpa") <= found <= count_token_bytes(config, dtype, "sdpa")
    assert peaks[1] <= 768 * count_token_bytes(config, dtype, "sdpa") + count_fixed_bytes(config, dtype, "sdpa", 512)


@pytest.mark.long
@pytest.mark.parametrize(("shape", "dtype"), [("as T5-XXL", torch.bfloat16), ("wide attention", torch.float32)])
@torch.no_grad()
def test_a_token_on_paper_is_a_token_of_a_compiled_forward(shape: str, dtype: torch.dtype, compiler: None) -> None:
    if dtype == torch.bfloat16 and "bf16" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a CPU with instructions for bfloat16: without them oneDNN makes float32 copies")
    config = make_config(**SHAPES[shape])
    encoder = make_encoder(config, dtype)
    forward(encoder, 1536, "flex")  # compiles
    found = measure_allocator(lambda: forward(encoder, 1536, "flex")) / 1536
    assert 0.7 * count_token_bytes(config, dtype, "flex") <= found <= 1.05 * count_token_bytes(config, dtype, "flex")


@pytest.mark.parametrize("attention", ["flex", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_a_stream_on_a_card_takes_no_more_than_on_paper(attention: str, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    config = make_config(d_model=4096, d_ff=10240, num_heads=64)
    encoder = make_encoder(config, dtype, "cuda")
    forward(encoder, 8192, attention)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert before >= count_weight_bytes(config, dtype)
    forward(encoder, 8192, attention)
    taken = torch.cuda.max_memory_allocated() - before
    paper = 8192 * count_token_bytes(config, dtype, attention) + count_fixed_bytes(config, dtype, attention, LENGTH)
    assert 0.6 * paper <= taken <= paper / USABLE


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_on_paper_are_the_parameters(shape: str, dtype: torch.dtype) -> None:
    config = make_config(**SHAPES[shape])
    encoder = make_encoder(config, dtype)
    assert count_weight_bytes(config, dtype) == sum(p.numel() * p.element_size() for p in encoder.parameters())
    per_layer = replace(config, bias_per_layer=True)
    encoder = make_encoder(per_layer, dtype)
    assert count_weight_bytes(per_layer, dtype) == sum(p.numel() * p.element_size() for p in encoder.parameters())


@given(free=st.integers(0, 80 * GIB), length=st.integers(1, 4096), attention=st.sampled_from(["flex", "sdpa"]))
def test_a_budget_that_is_chosen_fits_and_the_next_larger_would_not(free: int, length: int, attention: str) -> None:
    config, dtype = EncoderConfig.from_hf(XXL), torch.bfloat16
    room = int(free * USABLE) - count_weight_bytes(config, dtype)
    room -= count_fixed_bytes(config, dtype, attention, length)
    budgets = list_budgets(16384, length)
    fitting = [budget for budget in budgets if budget * count_token_bytes(config, dtype, attention) <= room]
    if fitting:
        chosen = choose_budget(config, dtype, attention, free=free, length=length, most=16384)
        assert chosen == max(fitting) >= max(16, length)
    else:
        with pytest.raises(ConfigError, match=r"^token_budget: expected room for 8.87 GiB of weights and a stream of "):
            choose_budget(config, dtype, attention, free=free, length=length, most=16384)


@pytest.mark.parametrize(
    ("most", "length", "budgets"),
    [(2048, 512, [2048, 1024, 512]), (2048, 700, [2048, 1024, 700]), (64, 64, [64]), (64, 1, [64, 32, 16])],
)
def test_budgets_are_halves_and_hold_the_longest_text(most: int, length: int, budgets: list[int]) -> None:
    assert list(list_budgets(most, length)) == budgets


def pretend_card(monkeypatch: pytest.MonkeyPatch, *, free: float, total: float) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GIB), int(total * GIB)))


@pytest.mark.parametrize(
    ("free", "total", "share", "budget"),
    [(79, 80, 1.0, 16384), (23, 24, 1.0, 16384), (22, 23, 0.5, 8192), (12, 80, 1.0, 16384), (11, 80, 0.5, 8192)],
)
def test_an_encoder_takes_what_its_card_has_free(
    free: float, total: float, share: float, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_card(monkeypatch, free=free, total=total)
    options = EncoderOptions(model="m", device="cuda", attention="flex", device_share=share)
    assert options.resolve(EncoderConfig.from_hf(XXL)).token_budget == budget
    given_one = replace(options, token_budget=4096)
    assert given_one.resolve(EncoderConfig.from_hf(XXL)).token_budget == 4096


def test_a_card_that_is_too_small_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_card(monkeypatch, free=9.5, total=16)
    with pytest.raises(ConfigError, match=r"8.87 GiB of weights and a stream of 512 tokens \(.*got 9.50 GiB free"):
        EncoderOptions(model="m", device="cuda", attention="flex").resolve(EncoderConfig.from_hf(XXL))


def test_cards_of_different_size_give_the_same_embeddings(make: Make) -> None:
    """In one run an actor may have streams of another budget than its neighbour."""
    texts = random_ids([1, 7, 7, 30, 64, 64, 33, 2, 50, 16, 16, 5, 61])
    folder = make("umt5").folder
    budgets = (64, 128, 2048)
    encoders = [TextEncoder.from_pretrained(folder, tokenizer="byt5", max_length=64, token_budget=b) for b in budgets]
    first, *others = [encoder.encode_tokens(texts) for encoder in encoders]
    assert len({encoder.counters.streams for encoder in encoders}) == 3
    for other in others:
        assert distance(other, first) < ROUNDING


def test_the_table_of_the_page_is_what_follows() -> None:
    page = Path(__file__).parents[3] / "docs" / "memory.md"
    assert make_memory_table() in page.read_text(encoding="utf-8")
