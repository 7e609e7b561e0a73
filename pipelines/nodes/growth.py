"""A node that Ray's autoscaler adds, where none that is there has room for an actor.

Ray does not say whether a cluster may grow: KubeRay's autoscaler and those of `ray up` tell nobody what they may add.
So a node is asked for as an actor that waits would ask for it, and what the autoscaler does about it is read.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.nodes.selectors import Needs

logger = logging.getLogger(__name__)

# An autoscaler looks every five seconds: where it starts nothing for so long, it has nothing to add.
SILENCE_SECONDS = 30.0
LOOK_SECONDS = 1.0


def await_node(needs: Needs, *, silence: float = SILENCE_SECONDS) -> bool:
    """Whether there is room for an actor now: waits as long as an autoscaler is at work on a node.

    Nothing is left of the question, whatever becomes of this process.
    """
    with _asking_for(needs) as group:
        heard, is_told = time.monotonic(), False
        while not group.wait(LOOK_SECONDS):
            if is_node_coming():
                if not is_told:
                    logger.warning("waiting for a node with %s, which the cluster's autoscaler is starting", needs)
                heard, is_told = time.monotonic(), True
            elif time.monotonic() - heard > silence:
                return False
    return True


@contextmanager
def _asking_for(needs: Needs) -> Iterator[Any]:
    """A placement group of one actor: Ray takes it away with the driver."""
    import ray

    bundle = {name: amount for name, amount in needs.resources.items() if amount}
    group = ray.util.placement_group([bundle], bundle_label_selector=[dict(needs.labels)] if needs.labels else None)
    try:
        yield group
    finally:
        ray.util.remove_placement_group(group)


def is_node_coming() -> bool:
    """Whether an autoscaler, of Ray's first or second kind, is starting nodes for this process's Ray."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return bool(status.pending_launches or status.pending_nodes) or _is_pending(_read_report())


def _read_report() -> Mapping[str, Any]:
    """What an autoscaler of the first kind has last said of itself; also `ray status` reads it from there."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    said = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    return dict(json.loads(said).get("autoscaler_report") or {}) if said else {}


def _is_pending(report: Mapping[str, Any]) -> bool:
    return bool(report.get("pending_launches") or report.get("pending_nodes"))
