"""Bias-free linear layers, plain or packed for oneDNN, and what T5 does with their products.

T tokens in the stream (or any leading dimensions), I inputs, O outputs, F feed-forward dim.

A layer's product can be activated, gated, or added to the residual inside the layer. Any other module that maps
(T, I) to (T, O) may stand in its place, LoRA's or a quantizer's: then the same happens to its result.

On CPUs `pack()` trades a layer's weight for oneDNN's blocked layout (the operators Inductor itself calls when it
freezes a graph). The products run faster than MKL's on many CPUs, and the activation, the gate and the residual
sum happen inside them, which saves a pass over memory each. A packed layer is for inference on that CPU only: it
has no parameter any more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t5enc.config import Activation
from t5enc.model.precision import input_scale, linear_fp32, linear_wide, scale_down

ACTIVATE: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "silu": F.silu,
}
# (operator, algorithm) in oneDNN's words
FUSED_ACTIVATION: dict[Activation, tuple[str, str]] = {
    "relu": ("relu", ""),
    "gelu_tanh": ("gelu", "tanh"),
    "gelu": ("gelu", "none"),
    "silu": ("swish", ""),
}


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch has oneDNN's packed products, and this CPU those of `dtype`."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def pack_weight(weight: Tensor) -> Tensor:
    """(O, I) in oneDNN's layout; it serves any number of rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)  # type: ignore[no-any-return]


def packed_product(inputs: Tensor, weight: Tensor, activation: Activation | None = None) -> Tensor:
    """`inputs @ weight.T`, activated inside the product."""
    name, algorithm = FUSED_ACTIVATION[activation] if activation else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, None, name, [], algorithm)  # type: ignore[no-any-return]


def packed_binary(inputs: Tensor, other: Tensor, weight: Tensor, operator: str) -> Tensor:
    """`inputs @ weight.T` combined with `other` ("add" or "mul") inside the product."""
    return torch.ops.mkldnn._linear_pointwise.binary(inputs, other, weight, None, operator)  # type: ignore[no-any-return]


class Linear(nn.Linear):
    """(T, I) -> (T, O); with `residual` the sum of both, with `activation` (T, F), activated and gated.

    A layer of two `pieces` is gated: its weight holds the gate's F rows above the others, one product for both.
    """

    def __init__(self, in_features: int, out_features: int, *, pieces: int = 1) -> None:
        super().__init__(in_features, out_features * pieces, bias=False)
        self.pieces = pieces
        self.gains: tuple[float, ...] = (1.0,)  # of equal parts of the rows, where training starts
        self.packed: list[Tensor] = []

    def reset_parameters(self) -> None:
        """Left to `initialization.py`, or to what loads the weight."""

    def pack(self) -> None:
        """Trade the weight for its packed form; done once, for inference on this CPU."""
        if not self.packed:
            self.packed = [pack_weight(piece) for piece in self.weight.detach().chunk(self.pieces)]
            del self.weight

    def forward(self, inputs: Tensor, residual: Tensor | None = None, activation: Activation | None = None) -> Tensor:
        if residual is not None:
            return self._add_to(residual, inputs)
        if activation is not None:
            return self._activate_packed(inputs, activation) if self.packed else self._activate(inputs, activation)
        if self.packed:
            return torch.cat([packed_product(inputs, piece) for piece in self.packed], dim=-1)
        return linear_wide(inputs, self.weight).to(inputs.dtype)

    def _add_to(self, residual: Tensor, inputs: Tensor) -> Tensor:
        if not self.packed:
            return _add_scaled(residual, linear_fp32(inputs, self.weight), inputs.dtype)
        if inputs.dtype == torch.float32:
            return packed_binary(inputs, residual, self.packed[0], "add")
        return _add_scaled(residual, packed_product(inputs, self.packed[0]).float(), inputs.dtype)

    def _activate(self, inputs: Tensor, activation: Activation) -> Tensor:
        product = linear_wide(inputs, self.weight)
        return gate_product(product, activation, self.pieces, inputs.dtype)

    def _activate_packed(self, inputs: Tensor, activation: Activation) -> Tensor:
        gate = packed_product(inputs, self.packed[0], activation)
        if inputs.dtype == torch.float32:
            return packed_binary(inputs, gate, self.packed[1], "mul") if self.pieces == 2 else gate
        product = gate.float()
        if self.pieces == 2:
            product.mul_(packed_product(inputs, self.packed[1]))
        return scale_down(product, inputs.dtype)


def gate_product(product: Tensor, activation: Activation, pieces: int, dtype: torch.dtype) -> Tensor:
    """(T, pieces * F) -> (T, F) in `dtype`, scaled by `input_scale`, ready for `add_product`.

    16-bit products are activated and gated in float32 and rounded once.
    """
    activate = ACTIVATE[activation]
    is_narrow = product.element_size() < 4
    gate, *up = product.chunk(pieces, dim=-1)
    activated = activate(gate.float() if is_narrow else gate)
    return scale_down(activated * up[0] if up else activated, product.dtype if is_narrow else dtype)


def activate_product(layer: nn.Module, inputs: Tensor, activation: Activation, pieces: int) -> Tensor:
    """(T, M) -> (T, F): the way up of a feed-forward through a layer or what replaces one."""
    if isinstance(layer, Linear):
        return layer(inputs, activation=activation)  # type: ignore[no-any-return]
    return gate_product(layer(inputs), activation, pieces, inputs.dtype)


def add_product(layer: nn.Module, inputs: Tensor, residual: Tensor, dropout: float = 0.0) -> Tensor:
    """(T, I) and the residual (T, O) -> the new residual.

    In float16 the inputs arrive scaled by `input_scale`; the sum undoes it.
    """
    if isinstance(layer, Linear) and not dropout:
        return layer(inputs, residual=residual)  # type: ignore[no-any-return]
    product = F.dropout(layer(inputs).to(residual.dtype), dropout)
    return _add_scaled(residual, product, inputs.dtype)


def _add_scaled(residual: Tensor, product: Tensor, dtype: torch.dtype) -> Tensor:
    """Their sum, the scale of inputs in `dtype` undone.

    Not `torch.add(..., alpha=)`: Inductor (2.13) makes one operation of a float32 product and that sum, without alpha.
    """
    scale = input_scale(dtype)
    return residual + (product if scale == 1.0 else product * (1.0 / scale))
