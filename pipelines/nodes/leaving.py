"""Nodes that come to an end: which ones do so in good order, and whether one is still there.

What is in hand on a node that is preempted, drained or stopped is lost with it, and is not what killed it. A machine
that vanishes without a word cannot be told from one that its work has brought down.
"""

from __future__ import annotations

from typing import Any

from pipelines.nodes.ray_internals import find_draining

# How Ray says that a node ended as it was told to: stopped, preempted, or idle and taken away (its gcs.proto).
IN_GOOD_ORDER = (1, 3, 4)


def find_leaving() -> set[str]:
    """Nodes that are being drained, and those that have ended in good order."""
    import ray

    ended = {node["NodeID"] for node in ray.nodes() if not node["Alive"] and node["DeathReason"] in IN_GOOD_ORDER}
    return ended | find_draining()


def find_node() -> str:
    """The node of this process, as Ray names it."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def is_there(node: str) -> bool:
    """Whether a node still takes work. Asks the node itself, so that Ray has made up its mind about it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    answer: Any = ray.remote(_answer).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    try:
        return bool(ray.get(answer.remote()))
    except ray.exceptions.RayError:
        return False


def _answer() -> bool:
    return True
