"""The same bits in any company: how many rows a product needs before its rows stop depending on their number.

Matrix libraries pick another kernel for very few rows, and with it another order of summation. From some number
of rows on, which depends on the CPU and the shapes, every row's bits are its own. Streams padded to that floor
make a text's embedding bitwise independent of its company, on one CPU type with one number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t5enc.encoder import Encoder
from t5enc.errors import ConfigError
from t5enc.layers import Block

ROWS = 512
HIGHEST_FLOOR = 128


@torch.no_grad()
def find_floor(encoder: Encoder) -> int:
    """The fewest rows from which on a block's products give each row the same bits; ConfigError where none is."""
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, encoder.config.model_dim, generator=generator)
    expected = _run_products(block, rows, encoder.dtype)
    sizes = [*range(1, 2 * HIGHEST_FLOOR, 3), *range(2, 40), 300, 384, 511]
    unequal = [n for n in sizes if not torch.equal(_run_products(block, rows[:n], encoder.dtype), expected[:n])]
    floor = max(unequal, default=0) + 1
    if floor > HIGHEST_FLOOR:
        raise ConfigError(
            f"deterministic: expected products whose rows do not depend on their number on this CPU, got products "
            f"of {floor - 1} rows that differ; with MKL, set MKL_CBWR to the CPU's own mode and STRICT"
        )
    return floor


def _run_products(block: Block, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Everything of a block but the attention itself, which sees one document at a time anyway."""
    qkv = block.attention.qkv(block.attention_norm(rows, dtype))
    rows = block.attention.output(qkv[:, : qkv.shape[1] // 3].contiguous(), rows)
    return block.feed_forward(block.feed_forward_norm(rows, dtype), rows)  # type: ignore[no-any-return]
