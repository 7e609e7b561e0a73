"""Which dtype computes what: the one place that decides, and why.

- The residual stream is float32. Sums of many layers lose most in 16 bit, and it costs one cast a product.
- Norms compute in float32 and hand 16-bit results to the matrix products.
- float16 ends at 65504. T5's feed-forward outputs go beyond, so the *activations* that enter the two products
  that write to the residual are scaled by 2^-SHIFT before their cast and the float32 sum undoes it. Weights are
  never scaled: T5-XXL's `wo` has entries so small that 2^-6 would make a fifth of them subnormal.
- On CUDA those two products give float32 results straight from the accumulator, so nothing is rounded on the way
  into the residual.
- CPUs without float16 arithmetic only emulate its products, four times slower than float32: there both factors are
  widened instead, which is exact, and the result is rounded once.
- A float64 model keeps a float64 residual; it is for checking gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from t5enc.errors import ConfigError

SHIFT = 6
COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The compute dtype: as asked, or bfloat16 on CUDA (float16 on old cards) and float32 elsewhere."""
    if dtype is None or dtype == "auto":
        return _default_dtype(device)
    name = str(dtype).removeprefix("torch.")
    found = COMPUTE_DTYPES.get(ALIASES.get(name, name))
    if found is None:
        raise ConfigError(f"dtype: expected auto or one of {', '.join(COMPUTE_DTYPES)}, got {dtype!r}")
    return found


def _default_dtype(device: torch.device) -> torch.dtype:
    """Cards before Ampere only emulate bfloat16."""
    if device.type != "cuda":
        return torch.float32
    is_old = torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0)
    return torch.float16 if is_old else torch.bfloat16


def input_scale(dtype: torch.dtype) -> float:
    """Factor for activations that enter a product whose result could leave the dtype's range."""
    return 2.0**-SHIFT if dtype == torch.float16 else 1.0


def scale_down(activations: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast float32 activations to the compute dtype, scaled where the dtype is float16."""
    scale = input_scale(dtype)
    return (activations if scale == 1.0 else activations * scale).to(dtype)


def poison(sums: Tensor) -> Tensor:
    """Zeros, but NaN wherever a sum of squares is not finite: added to a result, it makes an overflow show.

    Not `sums * 0`, which Inductor takes for zero.
    """
    return torch.where(sums.isfinite(), 0.0, torch.nan)


def residual_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the residual stream of an encoder that computes in `dtype` is kept in."""
    return torch.promote_types(dtype, torch.float32)


def _emulates_float16() -> bool:
    is_supported = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return is_supported is None or not is_supported()


EMULATES_FLOAT16 = _emulates_float16()


def widens_products(inputs: Tensor) -> bool:
    """Whether products of such inputs run in float32 because this CPU has no products of their own dtype."""
    return EMULATES_FLOAT16 and inputs.dtype == torch.float16 and inputs.device.type == "cpu"


def has_fp32_products(inputs: Tensor, weight: Tensor) -> bool:
    """Whether 16-bit products can give float32 results here; they have no derivative, and want plain tensors."""
    is_plain = type(weight) in (Tensor, torch.nn.Parameter) and weight.dtype == inputs.dtype
    return inputs.is_cuda and inputs.element_size() == 2 and is_plain and not torch.is_grad_enabled()


def linear_wide(inputs: Tensor, weight: Tensor) -> Tensor:
    """`inputs @ weight.T`, in float32 where this device computes it so anyway, else in the inputs' dtype."""
    if widens_products(inputs):
        return F.linear(inputs.float(), weight.float())
    return F.linear(inputs, weight)


def linear_fp32(inputs: Tensor, weight: Tensor) -> Tensor:
    """`inputs @ weight.T` in the residual's dtype, unrounded where the device can."""
    if has_fp32_products(inputs, weight):
        flat = torch.mm(inputs.flatten(0, -2), weight.t(), out_dtype=torch.float32)
        return flat.view(*inputs.shape[:-1], weight.shape[0])
    return linear_wide(inputs, weight).to(residual_dtype(inputs.dtype))
