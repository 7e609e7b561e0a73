"""T5's relative position bias as a table over distances.

L tables, H heads, R distance at which buckets saturate.

The bias of a query and a key depends on their distance alone, so a document packed anywhere in a stream gets the
numbers it gets alone, and no (S, S) matrix is needed to describe it: 2R + 1 numbers a head are all there is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from t5enc.config import EncoderConfig
from t5enc.model.precision import residual_dtype


def bucket_distances(distances: Tensor, *, num_buckets: int, max_distance: int) -> Tensor:
    """Bucket of each distance (key minus query), bidirectional (Raffel et al. 2020, section 2.1).

    Half of the buckets are for keys after the query. Of each half, the first half holds one distance a bucket,
    the rest grow with the logarithm up to `max_distance`.
    """
    half = num_buckets // 2
    exact = half // 2
    magnitude = distances.abs()
    growth = torch.log(magnitude.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    coarse = (exact + (growth * (half - exact)).to(torch.int64)).clamp(max=half - 1)
    return torch.where(magnitude < exact, magnitude, coarse) + half * (distances > 0)


def saturation_distance(*, num_buckets: int, max_distance: int) -> int:
    """The smallest distance from which on every distance shares the last bucket."""
    before = torch.arange(0, -max_distance - 1, -1, device="cpu")
    buckets = bucket_distances(before, num_buckets=num_buckets, max_distance=max_distance)
    return buckets.tolist().index(num_buckets // 2 - 1)


class RelativeBias(nn.Module):
    """Bias of every distance from -R to R, for each table and head.

    T5 and MT5 share one table among all layers; UMT5 has one a layer.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.model_dim = config.model_dim
        self.num_buckets, self.max_distance = config.num_buckets, config.max_distance
        self.reach = saturation_distance(num_buckets=self.num_buckets, max_distance=self.max_distance)
        self.weight = nn.Parameter(torch.empty(config.num_biases, config.num_buckets, config.num_heads))
        # On the CPU even where the module is built on meta: a buffer made there would hold garbage later.
        self.buckets: Tensor
        self.register_buffer("buckets", self.count_buckets(), persistent=False)

    def count_buckets(self) -> Tensor:
        """(2R + 1,) the bucket of each distance: what the buffer holds, for loaders that lose it."""
        distances = torch.arange(-self.reach, self.reach + 1, device="cpu")
        return bucket_distances(distances, num_buckets=self.num_buckets, max_distance=self.max_distance)

    def forward(self) -> Tensor:
        """(L, H, 2R + 1) in the residual's dtype."""
        return self.weight.to(residual_dtype(self.weight.dtype))[:, self.buckets].transpose(1, 2).contiguous()


def bias_between(table: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Bias of each query position against each key position: (H, 2R + 1) -> (H, queries, keys)."""
    reach = table.shape[-1] // 2
    distances = keys[None, :] - queries[:, None]
    return table[:, distances.clamp(-reach, reach) + reach]
