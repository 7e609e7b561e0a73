"""How many replicas: enough for the tokens that wait and those that are computed.

Requests are the wrong measure, for one may hold a word and another 256 long captions. Each replica reports its load,
where 1 is as full as it shall be; Serve's controller calls `follow_load` with what all replicas have reported.

Serve pickles this module's functions by value, so they use nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

POLICY = "serve_app.served.scaling:follow_load"
LOAD = "load"
# One batch that runs and one that waits: the model never pauses, and a request waits for no more than one batch.
BATCHES_IN_FLIGHT = 2
# Seconds that a load is averaged over. Ray wants more than the ten between two reports of a replica.
LOOK_BACK = 15.0


class ScalingContext(Protocol):
    """What this module reads of Ray's AutoscalingContext."""

    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None:
        """By name and replica, the mean over LOOK_BACK of what replicas report."""


def choose_target(token_budget: int, queue_tokens: int) -> int:
    """Tokens in flight that fill a replica, where none are asked for; fewer than its queue takes in any case."""
    return max(1, min(BATCHES_IN_FLIGHT * token_budget, queue_tokens // 2))


def count_replicas(loads: Iterable[float], low: int, high: int) -> int:
    """Replicas over which these loads are at most 1 each, within (fewest, most)."""
    # Without rounding, three means of a third may add up to a little over 1.
    return min(high, max(low, math.ceil(round(sum(loads), 6))))


def follow_load(context: ScalingContext) -> tuple[int, dict[str, Any]]:
    """Serve's policy: replicas wanted now. Serve waits for its delays before it follows.

    While no replica has reported, as many as there are.
    """
    loads = (context.aggregated_metrics or {}).get(LOAD)
    if not loads:
        return context.target_num_replicas, {}
    low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return count_replicas(loads.values(), low, high), {}


def make_scaling(low: int, high: int, *, upscale_seconds: float, downscale_seconds: float) -> dict[str, Any]:
    """Serve's `autoscaling_config`; a change is made when it was wanted for so long without a break."""
    return {
        "min_replicas": low,
        "max_replicas": high,
        "policy": {"policy_function": POLICY},
        "look_back_period_s": LOOK_BACK,
        "upscale_delay_s": upscale_seconds,
        "downscale_delay_s": downscale_seconds,
    }
