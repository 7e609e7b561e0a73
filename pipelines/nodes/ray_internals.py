"""All that is taken from Ray's private modules: a new Ray is tried here first, and nowhere else.

Each use names the public call that was tried instead, and why it does not do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from t5enc.machine.starting import ending_half_started

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


# Of Ray's head: what asks clouds for nodes, what reads logs for drivers, and the dashboard's server.
NEEDLESS = ("start_monitor", "start_log_monitor", "start_api_server")


@contextmanager
def starting_head() -> Iterator[None]:
    """Within it ray.init starts a head without what a run of its own asks for nothing.

    Where that fails, whatever it had started ends.
    """
    # ray.init(include_dashboard=False, log_to_driver=False): starts these three all the same, each a Python of its
    # own, and waits for one of them. ray.shutdown(): knows nothing of a head that was given up half started.
    from ray._private.node import Node

    plain = {name: getattr(Node, name) for name in NEEDLESS if hasattr(Node, name)}
    try:
        for name in plain:
            setattr(Node, name, _do_nothing)
        with ending_half_started(Node):
            yield
    finally:
        for name, function in plain.items():
            setattr(Node, name, function)


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def count_cores() -> int:
    """Cores that this process may use: those it is bound to, within its container's share, and at least one."""
    # ray.init(num_cpus=None): counts the cores that a process is kept from (taskset, Slurm), and none in a container
    # with half a core.
    from ray._private.utils import get_num_cpus

    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, int(get_num_cpus(override_docker_cpu_warning=True))))


def find_cluster() -> str | None:
    """HOST:PORT of the cluster that Ray itself would join here, or None where there is none."""
    # ray.init(address="auto"): joins it, and waits for minutes where it is gone.
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found: str | None = canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError):
        return None
    return found
