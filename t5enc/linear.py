"""Bias-free linear layers, plain or packed for oneDNN.

T tokens in the stream, I inputs, O outputs, F feed-forward dim.

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
from t5enc.precision import input_scale, linear_fp32, scale_down

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


class Linear(nn.Module):
    """(T, I) -> (T, O)."""

    pieces = 1

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.packed: list[Tensor] = []

    def pack(self) -> None:
        """Trade the weight for its packed form; done once, for inference on this CPU."""
        if not self.packed:
            self.packed = [pack_weight(piece) for piece in self.weight.detach().chunk(self.pieces)]
            del self.weight

    def forward(self, inputs: Tensor) -> Tensor:
        if self.packed:
            return packed_product(inputs, self.packed[0])
        return F.linear(inputs, self.weight)


class ResidualLinear(Linear):
    """Adds its product to the float32 residual: (T, I), (T, O) -> (T, O).

    In float16 the inputs arrive scaled by `input_scale`; the sum undoes it.
    """

    def forward(self, inputs: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        alpha = 1.0 / input_scale(inputs.dtype)
        if not self.packed:
            return torch.add(residual, linear_fp32(inputs, self.weight), alpha=alpha)
        if inputs.dtype == torch.float32:
            return packed_binary(inputs, residual, self.packed[0], "add")
        return torch.add(residual, packed_product(inputs, self.packed[0]), alpha=alpha)


class ActivatedLinear(Linear):
    """The way up of a feed-forward: (T, M) -> (T, F), activated and, where gated, multiplied.

    A gated layer's weight holds the gate's rows above the others: one product for both. Its result is scaled by
    `input_scale`, ready for the ResidualLinear that follows.
    """

    def __init__(self, in_features: int, out_features: int, *, activation: Activation, is_gated: bool) -> None:
        super().__init__(in_features, out_features * (2 if is_gated else 1))
        self.pieces = 2 if is_gated else 1
        self.activation: Activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        return self._forward_packed(inputs) if self.packed else self._forward_plain(inputs)

    def _forward_plain(self, inputs: Tensor) -> Tensor:
        activate = ACTIVATE[self.activation]
        gate, *up = F.linear(inputs, self.weight).chunk(self.pieces, dim=-1)
        if inputs.dtype == torch.float32:
            return activate(gate) * up[0] if up else activate(gate)
        product = activate(gate.float())
        return scale_down(product * up[0] if up else product, inputs.dtype)

    def _forward_packed(self, inputs: Tensor) -> Tensor:
        gate = packed_product(inputs, self.packed[0], self.activation)
        if inputs.dtype == torch.float32:
            return packed_binary(inputs, gate, self.packed[1], "mul") if self.pieces == 2 else gate
        product = gate.float()
        if self.pieces == 2:
            product.mul_(packed_product(inputs, self.packed[1]))
        return scale_down(product, inputs.dtype)
