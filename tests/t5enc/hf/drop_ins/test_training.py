"""Training: gradients, dropout and gradient checkpoints are those of transformers."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from t5enc.checkpoint.weights import fuse_tensors
from tests.t5enc.hf.drop_ins.pairs import Pair, draw_batch, encode, relative
from tests.t5enc.reference import ROUNDING


def test_gradients_equal_transformers(pair: Pair) -> None:
    ids, mask = draw_batch()
    for model in (pair.ours, pair.theirs):
        model(ids, attention_mask=mask)[0].square().sum().backward()
    expected = fuse_tensors({name: p.grad for name, p in pair.theirs.named_parameters()}, pair.ours.list_parts())
    for name, parameter in pair.ours.named_parameters():
        assert parameter.grad is not None, name
        assert relative(parameter.grad, expected[name]) < ROUNDING, name


def test_dropout_draws_what_transformers_draws(pair: Pair) -> None:
    """The same places in the same order, so one seed gives both models the same numbers."""
    ids, mask = draw_batch()
    found = []
    for model in (pair.ours.train(), pair.theirs.train()):
        torch.manual_seed(3)
        found.append(model(ids, attention_mask=mask)[0])
    assert relative(*found) < ROUNDING
    assert relative(found[0], encode(pair.theirs.eval(), ids, mask)) > 0.05


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_equal_plain_ones(reentrant: bool, pair: Pair) -> None:
    ids, mask = draw_batch()
    gradients = []
    for is_checkpointed in (False, True):
        model = copy.deepcopy(pair.ours).train()
        if is_checkpointed:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(5)
        model(ids, attention_mask=mask)[0].square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert max(relative(a, b) for a, b in zip(*gradients, strict=True)) < 1e-6


def test_adapters_get_gradients_under_reentrant_checkpoints(pair: Pair) -> None:
    """The base is frozen, so the embeddings have to ask for gradients."""
    ids, mask = draw_batch()
    for model in (pair.ours.train().requires_grad_(False), pair.theirs.train().requires_grad_(False)):
        model.activation_checkpointing_enable({"use_reentrant": True})
        wanted = [parameter for name, parameter in model.named_parameters() if "block.2" in name]
        for parameter in wanted:
            parameter.requires_grad_(True)
        model(ids, attention_mask=mask)[0].square().sum().backward()
        assert all(parameter.grad is not None for parameter in wanted)
        model.disable_input_require_grads()
        assert not model.encoder.embed_tokens._forward_hooks
