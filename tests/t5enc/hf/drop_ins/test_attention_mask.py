"""Attention masks of every shape and dtype that transformers takes, and others refused with their shapes."""

from __future__ import annotations

import warnings

import pytest
import torch

from t5enc.errors import InputError
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import Pair, draw_batch, encode, load, relative
from tests.t5enc.reference import ROUNDING


@pytest.mark.parametrize("shape", [(3, 16), (3, 17, 16), (3, 1, 17, 16), (17,), (2, 1, 17, 17), (3, 2, 17, 17)])
def test_a_mask_of_another_shape_is_refused_with_the_shapes(shape: tuple[int, ...], make: Make) -> None:
    with pytest.raises(InputError, match=r"^attention_mask: expected .*, got \("):
        encode(load("t5_v1_1", make().folder), draw_batch()[0], torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_mask_of_the_lowest_float32_is_a_mask_in_16_bit(dtype: torch.dtype, make: Make) -> None:
    model, (ids, mask) = load("umt5", make("umt5").folder, dtype=dtype), draw_batch()
    added = torch.zeros(3, 1, 1, 17).masked_fill(mask[:, None, None] == 0, torch.finfo(torch.float32).min)
    assert torch.equal(encode(model, ids, added), encode(model, ids, mask))


def test_a_traced_model_keeps_its_mask(make: Make) -> None:
    model, (ids, mask) = load("t5_v1_1", make().folder), draw_batch()
    expected = encode(model, ids, mask)
    model.config.return_dict = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every size that it takes for fixed
        traced = torch.jit.trace(model, (ids, torch.ones_like(mask)), check_trace=False)
    assert relative(traced(ids, mask)[0], expected) < ROUNDING


def test_a_four_dimensional_mask_of_numbers_is_added(pair: Pair) -> None:
    ids, _ = draw_batch()
    bias = torch.randn(3, 1, 17, 17, generator=torch.Generator().manual_seed(1)) * 3
    assert relative(encode(pair.ours, ids, bias), encode(pair.theirs, ids, bias)) < ROUNDING
    per_head = bias.expand(3, 3, 17, 17) * torch.tensor([1.0, 0, -1]).view(1, 3, 1, 1)
    assert relative(encode(pair.ours, ids, per_head), encode(pair.theirs, ids, per_head)) < ROUNDING
