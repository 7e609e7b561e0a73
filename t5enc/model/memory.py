"""Memory of a device, on paper: bytes of a model's weights, bytes of a stream, and the budget that fits beside them.

T tokens in the stream, M model dim, I inner dim of attention, F feed-forward dim, H heads.

The stream's peak is in the middle of a layer. The embedded texts, the residual that the layer was given and the one
that attention made of it are float32 and alive at once; what differs by path is how many passes over F-wide rows keep
their results. `tests/t5enc/model/test_memory.py` counts what lives in a real forward.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError
from t5enc.model.packing import SMALLEST_RUNG

WIDE = 4
# The share of free memory that is counted on: allocators leave holes, libraries want workspaces.
USABLE = 0.9
GIB = 1 << 30


def find_free_bytes(device: torch.device, share: float = 1.0) -> int:
    """Free memory of a card, or this process's share of the whole card where that is less."""
    free, total = torch.cuda.mem_get_info(device)
    return min(free, int(total * share))


def count_weight_bytes(config: EncoderConfig, dtype: torch.dtype) -> int:
    """Bytes of the encoder with its embedding."""
    model, inner, wide = config.model_dim, config.inner_dim, config.ff_dim
    attention = 4 * model * inner
    feed_forward = (_count_pieces(config) + 1) * model * wide
    layers = config.num_layers * (attention + feed_forward + 2 * model)
    biases = config.num_biases * config.num_buckets * config.num_heads
    return (config.vocab_size * model + layers + biases + model) * dtype.itemsize


def count_token_bytes(config: EncoderConfig, dtype: torch.dtype, attention: str) -> int:
    """Bytes of a stream's peak for each of its tokens; `attention` is flex, whose blocks are compiled, or sdpa."""
    model, inner, wide = config.model_dim, config.inner_dim, config.ff_dim
    narrow, pieces = dtype.itemsize, _count_pieces(config)
    ids, residuals, normed = 8, 2 * WIDE * model, narrow * model
    attending = residuals + normed + 6 * narrow * inner
    rows = (pieces + 1) * narrow * wide if attention == "flex" else _count_eager_rows(dtype, pieces) * wide
    feeding = residuals + WIDE * model + normed + rows
    adding = residuals + WIDE * model + normed + narrow * wide + 2 * WIDE * model
    return ids + max(attending, feeding, adding)


def _count_eager_rows(dtype: torch.dtype, pieces: int) -> int:
    """Bytes of F-wide rows for each token and element: 16-bit products are activated and gated in float32."""
    narrow = dtype.itemsize
    if narrow == WIDE:
        return pieces * WIDE + (2 * WIDE if pieces == 2 else WIDE)
    is_gated, is_scaled = pieces == 2, dtype == torch.float16
    cast = narrow if is_gated or is_scaled else 0
    return pieces * narrow + 2 * WIDE + cast + (WIDE if is_gated and is_scaled else 0)


def count_fixed_bytes(config: EncoderConfig, dtype: torch.dtype, attention: str, length: int) -> int:
    """Bytes of the position bias as a matrix, which SDPA wants for the longest text."""
    if attention == "flex":
        return 0
    return (config.num_heads * (dtype.itemsize + WIDE) + 8) * length**2


def choose_budget(
    config: EncoderConfig, dtype: torch.dtype, attention: str, *, free: int, length: int, most: int
) -> int:
    """Tokens a stream for `free` bytes: `most`, or the first of its halves that fits, but no less than `length`.

    ConfigError with the numbers where not even a stream of the longest text fits beside the weights.
    """
    weights = count_weight_bytes(config, dtype)
    fixed = count_fixed_bytes(config, dtype, attention, length)
    token = count_token_bytes(config, dtype, attention)
    left = int(free * USABLE) - weights - fixed
    for budget in list_budgets(most, length):
        if budget * token <= left:
            return budget
    smallest = max(SMALLEST_RUNG, length)
    raise ConfigError(
        f"token_budget: expected room for {weights / GIB:.2f} GiB of weights and a stream of {smallest} tokens "
        f"({(smallest * token + fixed) / GIB:.2f} GiB), got {free / GIB:.2f} GiB free, of which {USABLE:.0%} is "
        f"counted on; a smaller max_length, a 16-bit dtype or a larger share of the device would need less"
    )


def list_budgets(most: int, length: int) -> Sequence[int]:
    """`most` and its halves down to what still holds the longest text, and that."""
    smallest = max(SMALLEST_RUNG, length)
    budgets = [most]
    while budgets[-1] // 2 >= smallest:
        budgets.append(budgets[-1] // 2)
    return budgets if budgets[-1] == smallest else [*budgets, smallest]


def _count_pieces(config: EncoderConfig) -> int:
    return 2 if config.is_gated else 1
