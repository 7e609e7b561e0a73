"""A Ray cluster of several nodes on this machine, which can be killed, stopped, drained and added to.

A node has one `slot`, as a machine has an accelerator, and an encoder actor takes it. All of a node's processes are
children of its raylet.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

# Dead nodes and heads are found within seconds, and a busy machine is not taken for a dead one.
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 12,
    "gcs_rpc_server_reconnect_timeout_s": 15,
}
MEMORY = 80 << 20
# What a spot node has from SIGTERM to its end, if something still runs on it.
DRAIN_SECONDS = 15
SLOT = {"slot": 1}


class Nodes:
    """The cluster; to be used on the main thread."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY, "_system_config": HEALTH}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.workers: list[Any] = []

    @property
    def address(self) -> str:
        """HOST:PORT for drivers."""
        return str(self.cluster.address)

    def add(self) -> str:
        """One more node; its name, as the log of events calls it."""
        self.workers.append(self.cluster.add_node(num_cpus=2, resources=SLOT, object_store_memory=MEMORY))
        return self.workers[-1].node_id[:6]

    def kill(self, node: Any) -> str:
        """End a node's raylet as a crash would: its workers find out by themselves."""
        os.kill(find_raylet(node), signal.SIGKILL)
        return self._forget(node, allow_graceful=False)

    def vanish(self, node: Any) -> str:
        """End a node and everything on it at once, as a machine that is switched off."""
        raylet = find_raylet(node)
        for process in [raylet, *find_children(raylet)]:
            _kill(process)
        return self._forget(node, allow_graceful=False)

    def stop(self, node: Any) -> str:
        """End a node in good order: a SIGTERM to its raylet."""
        return self._forget(node, allow_graceful=True)

    def drain(self, node: Any, *, seconds: float) -> str:
        """Tell a node that it will be gone in so many seconds, as a spot machine is told."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        deadline = int(1000 * (time.time() + seconds))
        reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION
        accepted, why = GcsClient(address=self.address).drain_node(node.node_id, reason, "preempted", deadline)
        assert accepted, why
        return str(node.node_id[:6])

    def _forget(self, node: Any, *, allow_graceful: bool) -> str:
        self.workers.remove(node)
        self.cluster.remove_node(node, allow_graceful=allow_graceful)
        return str(node.node_id[:6])

    def find_encoders(self) -> dict[int, Any]:
        """Process ids of the encoder actors there are, and their nodes."""
        pairs = [(child, node) for node in self.workers for child in find_children(find_raylet(node))]
        return {process: node for process, node in pairs if b"MapWorker" in read_command(process)}

    def close(self) -> None:
        """End every process of the cluster, whatever state it is in."""
        import ray

        for node in [*self.workers, *([self.cluster.head_node] if self.cluster.head_node else [])]:
            children = find_children(find_raylet(node))
            self.cluster.remove_node(node, allow_graceful=True)
            for process in children:
                _kill(process)
        ray._common.utils.reset_ray_address()


@contextmanager
def running_nodes(count: int) -> Iterator[Nodes]:
    """A cluster of a head and `count` nodes; nothing that it has changed in this process outlives it."""
    from ray.experimental import internal_kv

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        # A node that starts makes its cluster that of Ray's key-value store in this process. Left so, the next job on
        # another Ray writes to a head that is gone, and Ray ends a process that does that for a minute.
        for name in ("global_gcs_client", "_initialized"):
            patch.setattr(internal_kv, name, getattr(internal_kv, name))
        nodes = Nodes()
        try:
            for _ in range(count):
                nodes.add()
            yield nodes
        finally:
            nodes.close()
            signal.signal(signal.SIGTERM, handler)


class SpotNode:
    """A node as a machine's own `ray start` runs it, which takes the signals that a machine gets."""

    def __init__(self, address: str) -> None:
        words = ["start", "--address", address, "--block", "--num-cpus", "2", "--resources", json.dumps(SLOT)]
        words += ["--object-store-memory", str(MEMORY)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *words],
            env=os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_SECONDS)},
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def running_spot_node(nodes: Nodes) -> Iterator[SpotNode]:
    """One more node, which ends with its process."""
    spot = SpotNode(nodes.address)
    nodes.workers.append(spot)
    try:
        yield spot
    finally:
        nodes.workers.remove(spot)
        processes = find_children(spot.process.pid)
        processes += [child for process in processes for child in find_children(process)]
        spot.process.kill()
        spot.process.wait()
        for process in processes:
            _kill(process)


def find_raylet(node: Any) -> int:
    """Process id of a node's raylet; 0 before and after it has one."""
    if isinstance(node, SpotNode):
        children = find_children(node.process.pid)
        return next((child for child in children if read_command(child).split(b"\0")[0].endswith(b"raylet")), 0)
    return int(node.all_processes["raylet"][0].process.pid)


def find_children(process: int) -> list[int]:
    """Process ids of its children, none where it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def read_command(process: int) -> bytes:
    """A process's command line, empty where it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
