"""CPUs that tokenizers take of a cluster's nodes, and the capacity that is left there for encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.nodes.selectors import Needs, Node, count_fitting


def reserve_cpus(nodes: Sequence[Node], encoder: Needs, count: int) -> tuple[int, list[Node]]:
    """How many of `count` tokenizers have room, and the nodes without a CPU for each of those.

    They come to nodes that no encoder may run on first, then to where most CPUs are spare.
    """
    spare = [_count_spare(node, encoder) for node in nodes]
    is_free = [not count_fitting([node], encoder) for node in nodes]
    reserved = min(count, sum(spare))
    left = list(spare)
    for _ in range(reserved):
        place = max(range(len(nodes)), key=lambda i: (left[i] > 0, is_free[i], left[i]))
        left[place] -= 1
    return reserved, [_take(node, spare[i] - left[i]) for i, node in enumerate(nodes)]


def _count_spare(node: Node, encoder: Needs) -> int:
    """A node's CPUs beyond those of the encoders that its cards allow, or of one where there are no cards to count."""
    fitting = count_fitting([node], encoder)
    encoders = fitting if encoder.resources.get("GPU") else min(fitting, 1)
    return int(node.resources.get("CPU", 0.0) - encoders * encoder.resources["CPU"])


def _take(node: Node, cpus: int) -> Node:
    return replace(node, resources=dict(node.resources) | {"CPU": node.resources.get("CPU", 0.0) - cpus})
