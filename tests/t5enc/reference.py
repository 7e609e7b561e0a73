"""What transformers makes of token ids, one text at a time, and how far from it something else is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]

# What packing may change: sums in another order.
ROUNDING = 2e-5


def random_ids(lengths: Iterable[int], *, vocab_size: int = 300, seed: int = 0) -> list[Ids]:
    """Token ids of texts of these lengths."""
    random = np.random.RandomState(seed)
    return [random.randint(2, vocab_size, size=length).astype(np.int32) for length in lengths]


@torch.no_grad()
def reference(model: Any, texts: Sequence[Ids]) -> list[Tensor]:
    """transformers' hidden states of each text alone, (tokens, M)."""
    return [model(input_ids=torch.from_numpy(text).long()[None]).last_hidden_state[0] for text in texts]


def distance(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest relative L2 distance among texts; NaN if any value is."""
    pairs = list(zip(found, expected, strict=True))
    errors = [(a.float() - b.float()).norm() / b.float().norm() for a, b in pairs]
    return float(torch.stack(errors).max())
