"""Packed layers compute what plain ones compute, for every activation and dtype this CPU has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from t5enc.config import Activation
from t5enc.model.linear import ACTIVATE, Linear, activate_product, add_product, can_pack
from t5enc.model.precision import input_scale

LayerType = TypeVar("LayerType", bound=Linear)
INPUTS, OUTPUTS = 48, 80
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Relative to the size of a result: one rounding of each dtype, with room for two in a gated product.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    if not can_pack(chosen):
        pytest.skip(f"oneDNN has no packed products of {chosen} on this CPU")
    return chosen


def fill(layer: LayerType, dtype: torch.dtype) -> LayerType:
    """The layer with weights of a seed, for inference."""
    torch.nn.init.normal_(layer.weight, std=INPUTS**-0.5, generator=torch.Generator().manual_seed(1))
    return layer.to(dtype).requires_grad_(False)


def draw(rows: int, columns: int, dtype: torch.dtype = torch.float32, *, seed: int = 2) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_packing_changes_nothing(layer: Linear, run: Callable[[int], Tensor], dtype: torch.dtype) -> None:
    """`run(rows)` before and after packing, for few rows and many."""
    plain = {rows: run(rows) for rows in (1, 2, 17, 300)}
    layer.pack()
    assert not list(layer.parameters())
    for rows, expected in plain.items():
        found = run(rows)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_linear(dtype: torch.dtype) -> None:
    layer = fill(Linear(INPUTS, OUTPUTS), dtype)
    assert_packing_changes_nothing(layer, lambda rows: layer(draw(rows, INPUTS, dtype)), dtype)


def test_residual_linear_leaves_its_residual_as_it_is(dtype: torch.dtype) -> None:
    layer = fill(Linear(INPUTS, OUTPUTS), dtype)

    def run(rows: int) -> Tensor:
        residual = draw(rows, OUTPUTS, seed=3)
        result = add_product(layer, draw(rows, INPUTS, dtype) * input_scale(dtype), residual)
        assert torch.equal(residual, draw(rows, OUTPUTS, seed=3))
        assert result.dtype == torch.float32
        return result

    assert_packing_changes_nothing(layer, run, dtype)


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATE)
def test_activated_linear(activation: Activation, is_gated: bool, dtype: torch.dtype) -> None:
    layer = fill(Linear(INPUTS, OUTPUTS, pieces=1 + is_gated), dtype)
    unscale = 1 / input_scale(dtype)

    def run(rows: int) -> Tensor:
        return activate_product(layer, draw(rows, INPUTS, dtype), activation, layer.pieces) * unscale

    assert_packing_changes_nothing(layer, run, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATE)
def test_plain_layers_compute_their_formula(activation: Activation, is_gated: bool, dtype: torch.dtype) -> None:
    up = fill(Linear(INPUTS, OUTPUTS, pieces=1 + is_gated), dtype)
    down = fill(Linear(OUTPUTS, INPUTS), dtype)
    inputs, residual = draw(9, INPUTS, dtype), draw(9, INPUTS, seed=3)
    gate, *others = (inputs.double() @ up.weight.double().T).chunk(up.pieces, dim=-1)
    product = ACTIVATE[activation](gate) * (others[0] if others else 1)
    expected = residual + product @ down.weight.double().T
    found = add_product(down, activate_product(up, inputs, activation, up.pieces), residual)
    assert (found - expected).norm() / expected.norm() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_gated", [False, True])
def test_any_module_may_stand_in_for_a_linear_layer(is_gated: bool, dtype: torch.dtype) -> None:
    """A replacement knows nothing of residuals or activations: they happen to what it gives."""
    up = fill(Linear(INPUTS, OUTPUTS, pieces=1 + is_gated), dtype)
    down = fill(Linear(OUTPUTS, INPUTS), dtype)
    replaced = [torch.nn.Linear(layer.in_features, layer.out_features, bias=False) for layer in (up, down)]
    for new, old in zip(replaced, (up, down), strict=True):
        new.weight = old.weight
    inputs, residual = draw(9, INPUTS, dtype), draw(9, INPUTS, seed=3)
    found, expected = (
        add_product(second, activate_product(first, inputs, "gelu_tanh", up.pieces), residual)
        for first, second in (replaced, (up, down))
    )
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_packing_twice_is_packing_once() -> None:
    layer = fill(Linear(INPUTS, OUTPUTS), torch.float32)
    layer.pack()
    packed = layer.packed
    layer.pack()
    assert layer.packed is packed


def test_float32_can_be_packed_wherever_onednn_is() -> None:
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    assert can_pack(torch.float32) == has_onednn


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_can_be_packed_runs_packed(dtype: torch.dtype) -> None:
    if can_pack(dtype):
        layer = fill(Linear(INPUTS, OUTPUTS), dtype)
        layer.pack()
        assert layer(draw(3, INPUTS, dtype)).isfinite().all()
