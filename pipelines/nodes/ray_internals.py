"""All that is taken from Ray's private modules: a new Ray is tried here first, and nowhere else.

Each use names the public call that was tried instead, and why it does not do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANSWER_SECONDS = 10


def find_draining() -> set[str]:
    """Nodes that are told to end and are still there, by their ids."""
    # ray.nodes() and ray.util.state.list_nodes(): they tell the living from the dead, and a node that drains lives.
    from ray._private.state import state

    return set(state.get_draining_nodes())


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalerReports:
    """What autoscalers last said: one of the first kind as JSON, {} for none; one of the second an AutoscalingState."""

    first: Mapping[str, Any]
    second: Any


def read_autoscalers() -> AutoscalerReports | None:
    """What the autoscaler of this process's Ray, of either kind, has last said; None where Ray does not answer."""
    # ray.autoscaler.sdk: asks for nodes, and tells nothing. ray.util.state: knows nodes that are there, not those that
    # come, and a placement group that waits looks the same whether anything comes or not. `ray status`: text for
    # people, of both kinds in different words. Without this a job on a full cluster would wait for ever, or give up
    # while a cloud is starting its machine.
    import ray
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    try:
        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        reply = GetClusterStatusReply.FromString(client.get_cluster_status(timeout_s=ANSWER_SECONDS))
        first = client.internal_kv_get(DEBUG_AUTOSCALING_STATUS.encode(), None, timeout=ANSWER_SECONDS)
    except ray.exceptions.RpcError:
        return None
    return AutoscalerReports(first=json.loads(first) if first else {}, second=reply.autoscaling_state)
