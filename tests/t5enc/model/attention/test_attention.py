"""Attention over a stream of documents equals attention over each document alone, on both paths."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from t5enc.model.attention.flex import attend_flex
from t5enc.model.attention.plan import AttentionPlan, Group, plan_flex, plan_flex_batch, plan_padded, plan_sdpa
from t5enc.model.attention.position_bias import DENSE_BIAS_LIMIT, PositionBias, position_bias
from t5enc.model.attention.sdpa import attend_sdpa
from t5enc.model.threads import holding_num_threads

HEADS, DIM, REACH = 3, 16, 40
LENGTHS = [1, 2, 2, 2, 7, 30, 65, 65, 80]
TOTAL = 256
CPU = torch.device("cpu")

CompiledFlex = Callable[[Tensor, PositionBias, AttentionPlan, int], Tensor]


@pytest.fixture(scope="module")
def compiled_flex(compiler: None) -> CompiledFlex:
    """attend_flex as the encoder runs it; one graph for all tests of one shape and dtype."""
    compiled: CompiledFlex = torch.compile(attend_flex, fullgraph=True, dynamic=False)
    return holding_num_threads()(compiled)


def draw(tokens: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(T, 3 H D) queries, keys and values, and a (H, 2R + 1) table of biases."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(tokens, 3 * HEADS * DIM, generator=generator) * 0.5
    return qkv, torch.randn(HEADS, 2 * REACH + 1, generator=generator)


def attend_plainly(qkv: Tensor, table: Tensor, keys: int | None = None) -> Tensor:
    """(S, 3 H D) of one document -> (S, H D) by the formula, in float64; only the first `keys` tokens are seen."""
    query, key, value = (part.view(-1, HEADS, DIM).transpose(0, 1) for part in qkv.double().chunk(3, dim=-1))
    positions = torch.arange(len(qkv))
    distances = positions[None, :] - positions[:, None]
    scores = query @ key.mT + table.double()[:, distances.clamp(-REACH, REACH) + REACH]
    if keys is not None:
        scores[..., keys:] = -math.inf
    return (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)


def attend_each_plainly(qkv: Tensor, table: Tensor, lengths: list[int]) -> Tensor:
    return torch.cat([attend_plainly(part, table) for part in torch.split(qkv[: sum(lengths)], lengths)])


def run_sdpa(qkv: Tensor, table: Tensor, lengths: list[int]) -> Tensor:
    plan = plan_sdpa(lengths, len(qkv))
    return attend_sdpa(qkv, position_bias(table, plan, qkv.dtype), plan, HEADS)


def run_flex(compiled_flex: CompiledFlex, qkv: Tensor, table: Tensor, lengths: list[int]) -> Tensor:
    plan = plan_flex(lengths, len(qkv), block_size=64, device=CPU)
    return compiled_flex(qkv, position_bias(table, plan, qkv.dtype), plan, HEADS)


def test_neighbours_of_equal_length_become_one_group() -> None:
    plan = plan_sdpa([2, 2, 5, 2], 20)
    assert plan.groups == (Group(0, 2, 2, 2), Group(4, 1, 5, 5), Group(9, 1, 2, 2))
    assert (plan.total, plan.longest) == (20, 5)
    assert plan_sdpa([3, 3]).total == 6
    assert plan_sdpa([], 4).longest == 0


def test_a_plan_moves_with_all_its_tensors() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False]])[:, None, None]
    padded = plan_padded(2, 3, mask, torch.float16)
    flex = plan_flex_batch(mask, 2, 3, 16, CPU)
    assert flex is not None
    for plan in (padded.to(torch.device("meta")), flex.to(torch.device("meta"))):
        tensors = [plan.mask, plan.has_keys, plan.keyless, plan.block_mask and plan.block_mask.kv_indices]
        assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
    assert padded.has_keys is not None
    assert padded.has_keys.flatten().tolist() == [1.0, 0.0]
    assert flex.keyless is not None
    assert flex.keyless.tolist() == [False] * 3 + [True] * 3 + [False] * 10


def test_sdpa_equals_each_document_alone() -> None:
    qkv, table = draw(sum(LENGTHS))
    expected = attend_each_plainly(qkv, table, LENGTHS)
    torch.testing.assert_close(run_sdpa(qkv, table, LENGTHS).double(), expected, rtol=0, atol=2e-6)


def test_sdpa_gives_zeros_to_tokens_of_no_document() -> None:
    qkv, table = draw(20)
    attended = run_sdpa(qkv, table, [4, 9])
    assert not attended[13:].any()
    assert torch.equal(attended[:13], run_sdpa(qkv[:13], table, [4, 9]))


@pytest.mark.parametrize("length", [DENSE_BIAS_LIMIT, DENSE_BIAS_LIMIT + 1, 2 * DENSE_BIAS_LIMIT + 300])
def test_documents_of_any_length_equal_the_plain_formula(length: int) -> None:
    lengths = [3, length]
    qkv, table = draw(sum(lengths))
    expected = attend_each_plainly(qkv, table, lengths)
    torch.testing.assert_close(run_sdpa(qkv, table, lengths).double(), expected, rtol=0, atol=2e-6)


def test_the_dense_bias_is_made_for_the_longest_document_only() -> None:
    table = draw(1)[1]
    for lengths, size in (([2, 7], 7), ([2000], DENSE_BIAS_LIMIT)):
        bias = position_bias(table, plan_sdpa(lengths), torch.bfloat16)
        assert bias.dense is not None
        assert bias.dense.shape == (HEADS, size, size)
        assert bias.dense.dtype == torch.bfloat16
    assert position_bias(table, plan_flex([5], 16, block_size=64, device=CPU), torch.float32).dense is None


@pytest.mark.parametrize("seed", range(4))
def test_flex_equals_sdpa_and_the_formula_in_any_order(seed: int, compiled_flex: CompiledFlex) -> None:
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(seed)).tolist()
    lengths = [LENGTHS[index] for index in order][: len(LENGTHS) - seed]
    qkv, table = draw(TOTAL, seed=seed)
    found = run_flex(compiled_flex, qkv, table, lengths)
    torch.testing.assert_close(found, run_sdpa(qkv, table, lengths), rtol=0, atol=2e-6)
    expected = attend_each_plainly(qkv, table, lengths)
    torch.testing.assert_close(found[: len(expected)].double(), expected, rtol=0, atol=2e-6)


def attend_with_pads(qkv: Tensor, table: Tensor, lengths: list[int], keys: list[int]) -> Tensor:
    parts = torch.split(qkv[: sum(lengths)], lengths)
    return torch.cat([attend_plainly(part, table, seen) for part, seen in zip(parts, keys, strict=True)])


WITH_PADS = {
    "some pads": ([5, 5, 5, 9, 80], [5, 2, 2, 1, 65]),
    "all but one are pads": ([64, 64, 100], [1, 1, 1]),
    "pads beyond the dense bias": ([DENSE_BIAS_LIMIT + 70, 3], [DENSE_BIAS_LIMIT + 3, 2]),
}


@pytest.mark.parametrize("case", WITH_PADS)
def test_pads_see_the_text_and_are_seen_by_nobody(case: str) -> None:
    lengths, keys = WITH_PADS[case]
    qkv, table = draw(sum(lengths))
    plan = plan_sdpa(lengths, keys=keys)
    found = attend_sdpa(qkv, position_bias(table, plan, qkv.dtype), plan, HEADS)
    torch.testing.assert_close(found.double(), attend_with_pads(qkv, table, lengths, keys), rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", list(WITH_PADS)[:2])
def test_under_flex_pads_see_the_text_and_are_seen_by_nobody(case: str, compiled_flex: CompiledFlex) -> None:
    lengths, keys = WITH_PADS[case]
    qkv, table = draw(TOTAL)
    plan = plan_flex(lengths, TOTAL, block_size=64, device=CPU, keys=keys)
    found = compiled_flex(qkv, position_bias(table, plan, qkv.dtype), plan, HEADS)
    expected = attend_with_pads(qkv, table, lengths, keys)
    torch.testing.assert_close(found[: len(expected)].double(), expected, rtol=0, atol=2e-6)
    assert not found[len(expected) :].any()


def test_documents_stand_in_one_group_if_they_agree_in_pads_too() -> None:
    assert plan_sdpa([4, 4, 4], keys=[3, 3, 4]).groups == (Group(0, 2, 4, 3), Group(8, 1, 4, 4))


def test_flex_gives_zeros_to_tokens_of_no_document(compiled_flex: CompiledFlex) -> None:
    qkv, table = draw(TOTAL)
    assert not run_flex(compiled_flex, qkv, table, LENGTHS[:4])[sum(LENGTHS[:4]) :].any()


@pytest.mark.parametrize("part", ["query and key", "query", "value"])
@pytest.mark.parametrize("value", [1e20, math.inf, math.nan])
def test_flex_shows_scores_out_of_range_as_nan(part: str, value: float, compiled_flex: CompiledFlex) -> None:
    qkv, table = draw(TOTAL)
    columns = {"query": slice(0, 1), "value": slice(-1, None), "query and key": slice(0, 2 * HEADS * DIM)}[part]
    qkv[5, columns] = value
    assert run_flex(compiled_flex, qkv, table, LENGTHS).isnan().all()


@pytest.mark.parametrize("value", [1e20, math.inf, math.nan])
def test_sdpa_shows_scores_out_of_range_in_that_document_alone(value: float) -> None:
    lengths = [4, 4, 4, 9]
    qkv, table = draw(sum(lengths))
    clean = run_sdpa(qkv, table, lengths)
    qkv[5, : 2 * HEADS * DIM] = value
    found = run_sdpa(qkv, table, lengths)
    assert not found[5].isfinite().any()
    assert torch.equal(found[:4], clean[:4])
    assert torch.equal(found[8:], clean[8:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_scores_beyond_the_range_of_float16_are_no_overflow(dtype: torch.dtype) -> None:
    qkv, table = draw(8)
    qkv[:, : 2 * HEADS * DIM] *= 500
    qkv = qkv.to(dtype)
    expected = attend_plainly(qkv, table.to(dtype))
    torch.testing.assert_close(run_sdpa(qkv, table, [8]).double(), expected, rtol=0, atol=1e-2)
