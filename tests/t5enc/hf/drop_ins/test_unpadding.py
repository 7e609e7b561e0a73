"""Pads that are not computed: every other row is as it is with them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from t5enc.errors import ConfigError, InputError
from tests.t5enc.conftest import FLEX, Make
from tests.t5enc.hf.drop_ins.pairs import Pair, draw_batch, encode, load, relative
from tests.t5enc.reference import ROUNDING


@pytest.mark.parametrize("implementation", ["sdpa", FLEX])
@pytest.mark.parametrize("pads", ["zero", "skip"])
def test_pads_can_be_left_out(pads: str, implementation: str, pair: Pair, compiler: None) -> None:
    ids, mask = draw_batch(5, 40)
    mask[1] = torch.arange(40) < 9
    mask[3] = 0
    expected = encode(pair.theirs, ids, mask)
    model = type(pair.ours).from_pretrained(pair.folder, pad_outputs=pads, attn_implementation=implementation).eval()
    found = encode(model, ids, mask)
    lengths = mask.sum(-1)
    assert found.shape == (5, 40 if pads == "zero" else int(lengths.max()), 64)
    for row, real in enumerate(mask.bool()):
        rows = found[row][real] if pads == "zero" else found[row][: lengths[row]]
        assert len(rows) == lengths[row]
        assert not len(rows) or relative(rows, expected[row][real]) < ROUNDING
    assert int(found.abs().sum(-1).count_nonzero()) == int(lengths.sum())


def test_pads_left_out_have_gradients_and_states_and_an_empty_batch(make: Make) -> None:
    folder, theirs = make("t5_v1_1")
    model = load("t5_v1_1", folder, pad_outputs="zero")
    ids, mask = draw_batch(2, 12)
    model(ids, attention_mask=mask)[0].square().sum().backward()
    assert model.encoder.block[0].attention.qkv.weight.grad is not None
    for pads in ("zero", "skip"):
        model.encoder.pad_outputs = pads
        states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        assert {state.shape for state in states} == {states[-1].shape}
        assert len(states) == 4
        assert not states[0][1, 6:].any()
        for dtype in (torch.float32, torch.bfloat16):
            assert not encode(copy.deepcopy(model).to(dtype), ids, torch.zeros_like(mask)).any()
    assert relative(encode(model, ids), encode(theirs, ids)) < ROUNDING


@pytest.mark.parametrize("mask", [torch.tensor([[1, 1, 0, 1, 1]]), torch.ones(1, 5, 5).tril()])
def test_pads_that_cannot_be_left_out_are_refused(mask: Tensor, make: Make) -> None:
    model = load("t5_v1_1", make().folder, pad_outputs="skip")
    with pytest.raises(InputError, match=r"^pad_outputs zero and skip: expected"):
        encode(model, torch.ones(1, 5, dtype=torch.int64), mask)
    with pytest.raises(ConfigError, match=r"^pad_outputs: expected same, zero or skip, got 'none'"):
        load("t5_v1_1", make().folder, pad_outputs="none")
