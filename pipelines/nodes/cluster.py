"""The Ray that a run works on: one of its own on this machine, or a cluster it joins, and waits for room in."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

from pipelines.job import EncodeJob
from pipelines.nodes.growth import await_capacity
from pipelines.nodes.selectors import Node, list_nodes
from pipelines.nodes.shares import Cluster, list_least, share_out
from pipelines.nodes.versions import check_nodes
from t5enc.errors import ConfigError, DriverError

# Only tasks and records pass through the object store, never embeddings.
OBJECT_STORE_BYTES = 128 << 20
ANSWER_SECONDS = 10.0
SHIPPED = ("t5enc", "pipelines")


@contextlib.contextmanager
def connect(job: EncodeJob) -> Iterator[Cluster]:
    """Use the Ray that is running in this process, join the job's cluster, or start a local one and end it."""
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        _start(job)
    else:
        check_joined(job, ray.get_runtime_context().gcs_address)
    _quieten()
    try:
        nodes, cluster = _find_capacity(job)
        yield replace(cluster, code=check_nodes(nodes)) if job.ray_address or len(nodes) > 1 else cluster
    finally:
        if is_ours:
            ray.shutdown()


def _find_capacity(job: EncodeJob) -> tuple[list[Node], Cluster]:
    """The nodes, and what actors get of them; where they have no room, once an autoscaler has added some."""
    nodes, is_local = list_nodes(), job.ray_address is None
    try:
        return nodes, share_out(job, nodes, is_local=is_local)
    except ConfigError:
        if is_local:
            raise
    why_not = await_capacity(list_least(job, nodes))
    nodes = list_nodes()
    try:
        return nodes, share_out(job, nodes, is_local=False)
    except ConfigError as error:
        raise ConfigError(f"{error}; {why_not}" if why_not else str(error)) from None


def check_installed() -> None:
    """ConfigError, before anything is written, where Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError('encode needs Ray, which is not installed: pip install "t5enc[data]"')


def is_connected() -> bool:
    """Whether this process has a Ray already; does not import it to find out."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def check_joined(job: EncodeJob, address: str) -> None:
    """ConfigError where the job asks for what the Ray of this process, at this address, is not or cannot do now."""
    if job.ray_address not in (None, "auto") and locate(job.ray_address) != locate(address):
        raise ConfigError(
            f"ray_address: expected the Ray that this process has joined already, {address}, got {job.ray_address}"
        )
    if job.ship_code:
        raise ConfigError(
            "ship_code: expected a process that has not joined Ray yet, got one that has; leave ray.init to the job"
        )


def locate(address: str) -> tuple[str, str]:
    """A cluster's IP and port; this machine's own IP where the name is one of loopback."""
    import ray

    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        host = socket.gethostbyname(host)
    return (ray.util.get_node_ip_address() if host.startswith("127.") else host), port


def start_local(**more: Any) -> None:
    """Start a Ray on this machine as a job without a cluster does; `more` goes to `ray.init`."""
    import ray

    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
        **more,
    )


def _start(job: EncodeJob) -> None:
    try:
        if job.ray_address is not None:
            _join(job, job.ray_address)
        else:
            start_local()
    except (OSError, RuntimeError, ValueError) as error:
        where = f"the cluster at {job.ray_address}" if job.ray_address else "a local Ray"
        raise DriverError(f"ray_address: expected {where} to answer, got: {error}") from error


def _join(job: EncodeJob, address: str) -> None:
    """Connect to a cluster, with this code where it is to be shipped; DriverError where the cluster refuses."""
    import ray

    knock(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": list_packages()} if job.ship_code else None,
        )
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        # A wrong token and none at all look alike: Ray's C++ part says so on stderr, the exception does not.
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        raise DriverError(
            f"ray_address: expected the cluster at {address} to let this process in, got: {error}. If it wants a "
            f"token, set RAY_AUTH_MODE=token (here {mode}), and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from error


def list_packages() -> list[str]:
    """Folders of the packages that an actor runs, to be sent to the nodes."""
    return [os.path.dirname(import_module(name).__file__ or "") for name in SHIPPED]


def knock(address: str) -> None:
    """OSError where nothing listens at HOST:PORT: Ray itself waits for minutes and ends the process."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()


def _quieten() -> None:
    """Ray Data's own bars and logs; the run reports its progress itself."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
