"""What two families do to hidden states before they are anyone's embeddings.

T tokens, M model dim.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from t5enc.recipes.recipe import Finish

NORM_EPS = 1e-6


def finish(kind: Finish, hidden: Tensor, embedded: Tensor, projection: tuple[Tensor, Tensor] | None) -> Tensor:
    """(T, M) hidden states of tokens whose embeddings were (T, M) -> what the pipeline passes on.

    "add_norms" (LongCat) adds both, each normed over M without weights. "project" (Stable Audio) is a linear layer
    with a bias, where the pipeline has one: it has none where the widths are equal.
    """
    if kind == "add_norms":
        return _norm(hidden) + _norm(embedded)
    if kind == "project" and projection is not None:
        weight, bias = projection
        return F.linear(hidden, weight, bias)
    return hidden


def _norm(rows: Tensor) -> Tensor:
    return F.layer_norm(rows, rows.shape[-1:], eps=NORM_EPS)
