"""int8g32: each 32 numbers of a token share a float16 scale, 8.5 bits a number.

A token is ceil(M / 32) scales and then M integers of -127 to 127; the last group is shorter where 32 does not divide M.
A massive channel spoils the 31 beside it and no others, so that the error is a tenth of that of a scale a token.

G groups of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from t5enc.errors import ConfigError
from t5enc.storage.codecs.codec import Codec, count_by_size

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 32
SCALE_BYTES = 2
LARGEST = 127
# Tokens that are decoded at a time: what is read stays in a core's own cache until it is written.
BLOCK = 64


def count_token_bytes(dim: int) -> int:
    """Bytes of one token."""
    return SCALE_BYTES * count_groups(dim) + dim


def count_groups(dim: int) -> int:
    """G: groups of 32 numbers, the last of which may have fewer."""
    return -(-dim // GROUP)


def _quantize(values: Tensor) -> Tensor:
    """(T, M) float32 -> (T, bytes of a token); ConfigError for numbers that are not finite, or beyond 8.3e6."""
    import torch

    data = torch.empty(len(values), count_token_bytes(values.shape[1]), dtype=torch.uint8)
    for block, filled in zip(torch.split(values, BLOCK), torch.split(data, BLOCK), strict=True):
        _quantize_block(block, filled)
    return data


def _quantize_block(values: Tensor, data: Tensor) -> None:
    import torch

    groups = _split(values)
    scales = _choose_scales(groups)
    # Where all are zero, any scale does.
    steps = scales.float().clamp(min=torch.finfo(torch.float16).smallest_normal * 2**-10)
    integers = (groups / steps[:, :, None]).round_().flatten(1)[:, : values.shape[1]]
    place = SCALE_BYTES * scales.shape[1]
    data[:, :place] = scales.flatten().view(torch.uint8).view(-1, place)
    data[:, place:].view(torch.int8).copy_(integers)


def _split(values: Tensor) -> Tensor:
    """(T, M) -> (T, G, 32), with zeros after the last number."""
    import torch.nn.functional

    tokens, dim = values.shape
    padded = torch.nn.functional.pad(values, (0, -dim % GROUP)) if dim % GROUP else values
    return padded.reshape(tokens, count_groups(dim), GROUP)


def _choose_scales(groups: Tensor) -> Tensor:
    """(T, G) float16, the smallest by which no number of a group is more than 127."""
    import torch

    exact = groups.abs().amax(dim=2) / LARGEST
    scales = exact.half()
    too_small = scales.float() < exact
    scales.view(torch.int16).add_(too_small)  # the next number after a positive one, from subnormal to infinite
    if not scales.isfinite().all():
        raise ConfigError(
            f"storage_dtype: int8g32 expects finite numbers up to {LARGEST * torch.finfo(torch.float16).max:.3g}, got "
            f"{float(groups.abs().max()):g}; store them as bfloat16 or float32"
        )
    return scales


def _dequantize_into(data: Tensor, out: Tensor) -> None:
    """(T, bytes of a token) -> (T, M) float32."""
    tokens = data.view(len(out), -1)
    for start in range(0, len(out), BLOCK):
        _dequantize_block(tokens[start : start + BLOCK], out[start : start + BLOCK])


def _dequantize_block(tokens: Tensor, out: Tensor) -> None:
    import torch

    dim = out.shape[1]
    place, whole = SCALE_BYTES * count_groups(dim), dim // GROUP
    # Copied, for of an odd M they lie at odd places.
    scales = tokens[:, :place].flatten().clone().view(torch.float16).float().view(len(out), -1)
    integers, end = tokens[:, place:].view(torch.int8), whole * GROUP
    found, filled = (torch.unflatten(part[:, :end], 1, (whole, GROUP)) for part in (integers, out))
    torch.mul(found, scales[:, :whole, None], out=filled)
    if end < dim:
        torch.mul(integers[:, end:], scales[:, whole:], out=out[:, end:])


GROUPS = Codec(
    working="float32",
    bits=8 + 8 * SCALE_BYTES / GROUP,
    token_bytes=count_token_bytes,
    encode=_quantize,
    decode_into=_dequantize_into,
    count_tokens=count_by_size(count_token_bytes),
)
