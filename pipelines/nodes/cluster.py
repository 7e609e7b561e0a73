"""The Ray that a run works on: one of its own on this machine, or a cluster it joins, and waits for room in."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module

from pipelines.job import EncodeJob, check_address
from pipelines.nodes.growth import await_capacity
from pipelines.nodes.local_ray import make_job_config, start_local
from pipelines.nodes.ray_internals import find_cluster
from pipelines.nodes.selectors import Node, list_nodes
from pipelines.nodes.shares import Cluster, list_least, share_out
from pipelines.nodes.versions import check_nodes
from t5enc.errors import ConfigError, DriverError
from t5enc.machine.own_ray import restoring_token

ANSWER_SECONDS = 10.0
# What encode needs besides what this package always has, by what equal captions are looked for in.
NEEDED = {"unit": {"ray": "Ray"}, "job": {"ray": "Ray", "duckdb": "DuckDB"}}
SHIPPED = ("t5enc", "pipelines")


@contextlib.contextmanager
def connect(job: EncodeJob) -> Iterator[Cluster]:
    """Use the Ray that is running in this process, join the job's cluster, or start a local one and end it."""
    import ray

    is_ours = not ray.is_initialized()
    with restoring_token(os.environ):
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


def check_installed(job: EncodeJob) -> None:
    """ConfigError, before anything is written, where Ray is missing, or what else a job needs."""
    for module, name in NEEDED[job.dedup].items():
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f'encode needs {name}, which is not installed: pip install "t5enc[data]"')


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


def _start(job: EncodeJob) -> None:
    if job.ray_address is None:
        start_local()
    else:
        _join(job, *find_address(job.ray_address, os.environ))


def find_address(asked: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """HOST:PORT of the cluster that is asked for, and who named it: the option, RAY_ADDRESS, or Ray itself.

    DriverError where none is running, ConfigError where RAY_ADDRESS is none that can be joined.
    """
    if asked != "auto":
        return asked, "ray_address"
    named = environ.get("RAY_ADDRESS", "").strip()
    if named and named != "auto":
        check_address(named, "RAY_ADDRESS, for ray_address auto")
        return named, "RAY_ADDRESS, for ray_address auto"
    found = find_cluster()
    if found is None:
        raise DriverError(
            "ray_address: expected a Ray cluster that runs on this machine, got none; give HOST:PORT, or leave it out "
            "for a Ray of this job's own"
        )
    return found, "ray_address: auto"


def _join(job: EncodeJob, address: str, named_by: str) -> None:
    """Connect to a cluster, with this code where it is to be shipped; an error of ours where that cannot be done."""
    import ray

    expected = f"{named_by}: expected the Ray cluster at {address}"
    try:
        knock(address)
        ray.init(
            address=job.ray_address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            job_config=make_job_config(),
            runtime_env={"py_modules": list_packages()} if job.ship_code else None,
        )
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(_explain_refusal(expected, error)) from error
    except ConnectionRefusedError as error:
        raise DriverError(f"{expected} to answer, got: {error}") from error
    except ConnectionError as error:
        raise DriverError(_explain_refusal(expected, error)) from error
    except (OSError, RuntimeError, ValueError, ray.exceptions.RpcError) as error:
        said = " ".join(str(error).split())
        # Another version of Ray or Python stays another one, however often it is tried.
        kind = ConfigError if "ersion mismatch" in said else DriverError
        raise kind(f"{expected} to answer, got: {said}") from error


def _explain_refusal(expected: str, error: Exception) -> str:
    """A wrong token and none at all look alike: Ray's C++ part says so on stderr, the exception does not."""
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    return (
        f"{expected} to let this process in, got: {error}. If it wants a token, set RAY_AUTH_MODE=token (here {mode}), "
        "and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    )


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
