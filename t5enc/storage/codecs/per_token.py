"""int8 as release 0.1 wrote it: a float32 scale a token, then M integers. Outputs begun with it are read, and go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t5enc.storage.codecs.codec import Codec, count_by_size

if TYPE_CHECKING:
    from torch import Tensor

SCALE_BYTES = 4


def _quantize(values: Tensor) -> Tensor:
    """Integers from -127 to 127, scaled by each token's largest value."""
    import torch

    scale = values.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    quantized = (values / scale).round().to(torch.int8)
    # Flat first: a column of no rows cannot be viewed as bytes.
    scale_bytes = scale.flatten().view(torch.uint8).view(-1, SCALE_BYTES)
    return torch.cat([scale_bytes, quantized.view(torch.uint8)], dim=1)


def _dequantize_into(data: Tensor, out: Tensor) -> None:
    import torch

    tokens = data.view(len(out), -1)
    scales = tokens[:, :SCALE_BYTES].flatten().clone().view(torch.float32)[:, None]
    torch.mul(tokens[:, SCALE_BYTES:].view(torch.int8), scales, out=out)


PER_TOKEN = Codec(
    working="float32",
    bits=8,
    token_bytes=lambda dim: SCALE_BYTES + dim,
    encode=_quantize,
    decode_into=_dequantize_into,
    count_tokens=count_by_size(lambda dim: SCALE_BYTES + dim),
)
