"""The same bits whatever else is in the batch: the fewest rows from which on a matrix product computes each row alike.

Matrix libraries pick another kernel for few rows, and with it another order of summation. From some number of
rows on, which depends on the CPU and the shapes, every row's bits are its own. Streams padded to that floor
make a text's embedding bitwise independent of its company, on one CPU type with one number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.model.encoder import Encoder
from t5enc.model.layers import Block
from t5enc.model.linear import add_product
from t5enc.model.packing import round_rows

HIGHEST_FLOOR = 128
# Products of fewer rows than this are tried on several runs of rows: in 16 bit, rounding hides most differences.
TRIED_ROWS = 64


@torch.no_grad()
def find_floor(encoder: Encoder, budget: int) -> int:
    """The fewest rows from which on a block's products give each row the bits that it has in a full stream.

    Only what `round_rows` gives is tried. ConfigError where there is no such number.
    """
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(max(budget, TRIED_ROWS), encoder.config.model_dim, generator=generator)
    rows = rows.to(encoder.relative_bias.weight.device)
    expected = _run_products(block, rows, encoder.dtype)
    unequal = [n for n in _sizes(len(rows)) if not _gives_bits(block, rows, n, expected, encoder.dtype)]
    floor = max(unequal, default=0) + 1
    if floor > HIGHEST_FLOOR:
        raise ConfigError(
            f"deterministic: expected products whose rows do not depend on their number on this CPU, got products "
            f"of {floor - 1} rows that differ; with MKL, set MKL_CBWR to the CPU's own mode and STRICT"
        )
    return floor


def _sizes(budget: int) -> list[int]:
    """Numbers of rows to try: all up to twice the highest floor, and some up to the budget."""
    wanted = [*range(1, 2 * HIGHEST_FLOOR), 300, 400, 500, budget // 2, budget - 1]
    return sorted({round_rows(size) for size in wanted if round_rows(size) < budget})


def _gives_bits(block: Block, rows: Tensor, size: int, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether products of `size` rows equal those rows of `expected`."""
    starts = range(0, min(max(TRIED_ROWS, size), len(rows)) - size + 1, size)
    runs = (slice(start, start + size) for start in starts)
    return all(torch.equal(_run_products(block, rows[run], dtype), expected[run]) for run in runs)


def _run_products(block: Block, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Everything of a block but the attention itself, which sees one document at a time anyway."""
    qkv = block.attention.qkv(block.attention_norm(rows, dtype))
    rows = add_product(block.attention.output, qkv[:, : qkv.shape[1] // 3].contiguous(), rows)
    return block.feed_forward(block.feed_forward_norm(rows, dtype), rows)  # type: ignore[no-any-return]
