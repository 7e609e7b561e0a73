"""Quantiles of more numbers than fit in memory: exact for few, counted in fine bins for many.

A float32 that is not negative orders like its bits, so its leading bits are the number of its bin: the exponent and
MANTISSA_BITS of the mantissa, that is 1024 bins an octave. Zero and infinity have bins of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Up to so many numbers (16 MiB) are kept and sorted.
EXACT_ELEMENTS = 1 << 22
MANTISSA_BITS = 10
SHIFT = 23 - MANTISSA_BITS
BINS = 1 << (31 - SHIFT)
# What the middle of a bin may be off by, as a share of the number.
RESOLUTION = 2.0 ** -(MANTISSA_BITS + 1)


class StreamQuantiles:
    """Quantiles of non-negative float32 numbers that arrive piece by piece; NaN counts as infinity.

    Exact up to `exact_elements` numbers, beyond them within RESOLUTION of the number itself (0.05 %), in 2 MiB.
    Numbers below 2^-126 / 1024 then count as zero.
    """

    def __init__(self, exact_elements: int = EXACT_ELEMENTS) -> None:
        self.exact_elements = exact_elements
        self.count = 0
        self.largest = 0.0
        self._kept: list[Tensor] = []
        self._counts: Tensor | None = None

    @property
    def is_exact(self) -> bool:
        """Whether all numbers are still there."""
        return self._counts is None

    def add(self, values: Tensor) -> None:
        """Take in numbers of any shape, on any device."""
        if not values.numel():
            return
        values = values.detach().flatten().float().nan_to_num(math.inf, posinf=math.inf)
        self.count += len(values)
        self.largest = max(self.largest, float(values.max()))
        if self._counts is not None:
            self._counts += count_bins(values)
            return
        self._kept.append(values.cpu())
        if self.count > self.exact_elements:
            self._counts = torch.stack([count_bins(piece) for piece in self._kept]).sum(0)
            self._kept = []

    def quantiles(self, levels: Sequence[float]) -> tuple[float, ...]:
        """The numbers at these levels (0 to 1), interpolated as torch.quantile does; NaN where there are none."""
        if not self.count:
            return (math.nan,) * len(levels)
        positions = [level * (self.count - 1) for level in levels]
        ranks = sorted({rank for at in positions for rank in (math.floor(at), math.ceil(at))})
        values = dict(zip(ranks, self._find(ranks), strict=True))
        return tuple(_between(values[math.floor(at)], values[math.ceil(at)], at % 1) for at in positions)

    def _find(self, ranks: list[int]) -> list[float]:
        """The numbers of these ranks, counted from zero."""
        places = torch.tensor(ranks)
        if self._counts is None:
            found: Tensor = torch.cat(self._kept).sort().values[places]
        else:
            found = _middles(torch.searchsorted(self._counts.cumsum(0), places, right=True))
        return found.tolist()


def count_bins(values: Tensor) -> Tensor:
    """(BINS,) on the CPU: how many of these non-negative float32 numbers lie in each bin."""
    return torch.bincount(values.view(torch.int32) >> SHIFT, minlength=BINS).cpu()


def _middles(bins: Tensor) -> Tensor:
    """The number in the middle of each bin; zero and infinity as they are."""
    edges = bins.to(torch.int32) << SHIFT
    values = (edges + (1 << (SHIFT - 1))).view(torch.float32)
    is_edge = (bins == 0) | edges.view(torch.float32).isinf()
    return torch.where(is_edge, edges.view(torch.float32), values)


def _between(low: float, high: float, share: float) -> float:
    """Linear interpolation, also next to infinity."""
    return low if low == high or not share else low + share * (high - low)
