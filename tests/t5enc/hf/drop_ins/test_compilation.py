"""Compiled drop-ins: few graphs for batches of any shape, the same numbers, gradients too."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from t5enc.errors import ConfigError
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import draw_batch, encode, load, relative
from tests.t5enc.reference import ROUNDING


@pytest.mark.long
@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_batches_of_any_shape_compile_few_graphs(implementation: str, make: Make, compiler: None) -> None:
    folder, theirs = make("t5_v1_1")
    model = load("t5_v1_1", folder, attn_implementation=implementation).compile()
    shapes = [(1, length) for length in range(1, 13)] + [(2, 7), (3, 17), (4, 16), (5, 1), (7, 13), (2, 64), (1, 130)]
    for rows, length in shapes:
        ids, mask = draw_batch(rows, length)
        mask[:, 0] = 1
        assert relative(encode(model, ids, mask), encode(theirs, ids, mask)) < ROUNDING
        assert relative(encode(model, ids), encode(theirs, ids)) < ROUNDING
    # Flex: one for each rung of rows times tokens; SDPA: with and without a mask, one row or token and several
    assert 1 <= model.compiled_graphs <= 8
    before = model.compiled_graphs
    encode(model, *draw_batch(3, 18))
    assert model.compiled_graphs == before


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # Dynamo's own
def test_a_compiled_model_has_gradients(make: Make, compiler: None) -> None:
    plain = load("umt5", make("umt5").folder)
    compiled = copy.deepcopy(plain).compile()
    ids, mask = draw_batch()
    for model in (plain, compiled):
        model(ids, attention_mask=mask)[0].square().sum().backward()
    for name, parameter in compiled.named_parameters():
        assert relative(parameter.grad, plain.get_parameter(name).grad) < ROUNDING, name


@pytest.mark.parametrize(
    "options",
    [
        {"options": {"max_fusion_size": 8}},
        pytest.param({"mode": "max-autotune-no-cudagraphs"}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_compile_returns_the_model_and_takes_options_of_torch(
    options: dict[str, Any], make: Make, compiler: None
) -> None:
    model = load("t5_v1_1", make().folder)
    ids, mask = draw_batch()
    expected = encode(model, ids, mask)
    assert model.compile(**options) is model
    assert relative(encode(model, ids, mask), expected) < ROUNDING
    assert relative(encode(copy.deepcopy(model), ids, mask), expected) < ROUNDING
    for wrong in ({"dynamic": False}, {"backend": "eager"}):
        with pytest.raises(ConfigError, match=r"^compile: expected Inductor and shapes as the attention has them, got"):
            model.compile(**wrong)
