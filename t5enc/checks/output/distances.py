"""How far stored embeddings may be from those of float32, and how far they are.

T tokens, M model dim. Distances are lengths of differences over lengths of what is expected: of a whole embedding, and
of its farthest token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t5enc.checks.precision.verify import FLOAT32_TOLERANCE
from t5enc.storage.codecs.error import measure_errors

# Sums in another order: of a whole embedding, and of one token.
TOKEN_TOLERANCE = 10 * FLOAT32_TOLERANCE
# Another machine rounds otherwise, and other captions are farther than those that were measured.
MARGIN_OF_COMPUTING = 3.0
# A number between two steps may be stored as either.
MARGIN_OF_STORING = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Of an embedding, and of its farthest token."""

    row: float
    token: float

    def exceeds(self, limit: Distance, *, slack: float = 1.0) -> bool:
        """Whether either is beyond `slack` times what is allowed; NaN is."""
        return not (self.row <= slack * limit.row and self.token <= slack * limit.token)


NEAREST = Distance(row=0.0, token=0.0)


def measure(found: Tensor, expected: Tensor) -> Distance:
    """Between two (T, M) of the same shape, in float64."""
    if not expected.numel():
        return NEAREST
    exact = expected.double()
    difference = found.double() - exact
    tiny = torch.finfo(torch.float64).tiny
    tokens = difference.norm(dim=1) / exact.norm(dim=1).clamp(min=tiny)
    return Distance(row=float(difference.norm() / exact.norm().clamp(min=tiny)), token=float(tokens.max()))


def farthest(distances: Sequence[Distance]) -> Distance:
    """The largest of each kind."""
    return Distance(
        row=max((found.row for found in distances), default=0.0),
        token=max((found.token for found in distances), default=0.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What an output may be off by: `computing` is what its compute dtype was measured to be off by here."""

    dtype: str
    storage: str
    computing: Distance

    def limit(self, expected: Tensor) -> Distance:
        """What an embedding that should be (T, M) may be off by: rounding while it was computed, and its storing."""
        storing = self.measure_storing(expected)
        computing = self.computing
        return Distance(
            row=FLOAT32_TOLERANCE + MARGIN_OF_COMPUTING * computing.row + MARGIN_OF_STORING * storing.row,
            token=TOKEN_TOLERANCE + MARGIN_OF_COMPUTING * computing.token + MARGIN_OF_STORING * storing.token,
        )

    def measure_storing(self, expected: Tensor) -> Distance:
        """What the codec changes of (T, M)."""
        if not expected.numel():
            return NEAREST
        errors = torch.from_numpy(measure_errors(expected, self.storage))
        lengths = expected.double().norm(dim=1)
        tiny = torch.finfo(torch.float64).tiny
        row = float((errors * lengths).norm() / lengths.norm().clamp(min=tiny))
        return Distance(row=row, token=float(errors.max()))

    def describe(self) -> str:
        """The bound in words."""
        parts = [f"sums in another order ({FLOAT32_TOLERANCE:g})"]
        if self.computing != NEAREST:
            parts.append(
                f"{MARGIN_OF_COMPUTING:g} times what computing in {self.dtype} was off by ({self.computing.row:.1e})"
            )
        parts.append(f"{MARGIN_OF_STORING:g} times what storing as {self.storage} changes of the row")
        return " + ".join(parts)
