"""The Ray that a run works on: one of its own on this machine, or a cluster it joins; and what an actor gets of it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.job import EncodeJob
from t5enc.errors import ConfigError, DriverError
from t5enc.options import resolve_device

# Only tasks and records pass through the object store, never embeddings.
OBJECT_STORE_BYTES = 128 << 20
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How many actors, and what each of them gets."""

    device: str
    actors: tuple[int, int]
    cpus_per_actor: float
    gpus_per_actor: float
    threads_per_actor: int


@contextlib.contextmanager
def connect(job: EncodeJob) -> Iterator[Cluster]:
    """Use the Ray that is running in this process, join the job's cluster, or start a local one and end it."""
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        _start(job)
    _quieten()
    try:
        yield share_out(job, ray.cluster_resources(), is_local=job.ray_address is None)
    finally:
        if is_ours:
            ray.shutdown()


def check_installed() -> None:
    """ConfigError, before anything is written, where Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError('encode needs Ray, which is not installed: pip install "t5enc[data]"')


def is_connected() -> bool:
    """Whether this process has a Ray already; does not import it to find out."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _start(job: EncodeJob) -> None:
    import ray

    try:
        if job.ray_address is not None:
            _knock(job.ray_address)
            ray.init(address=job.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
    except (OSError, RuntimeError, ValueError) as error:
        where = f"the cluster at {job.ray_address}" if job.ray_address else "a local Ray"
        raise DriverError(f"ray_address: expected {where} to answer, got: {error}") from error


def _knock(address: str) -> None:
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


def share_out(job: EncodeJob, resources: dict[str, float], *, is_local: bool) -> Cluster:
    """Actors and their share: one a GPU, or on CPUs one of all cores unless the job says otherwise."""
    gpus = resources.get("GPU", 0.0)
    if is_local and resolve_device(job.device).type != "cuda":
        gpus = 0.0  # Ray counts cards that this PyTorch cannot use
    wants_gpu = (gpus > 0 and job.device in (None, "auto")) or (job.device or "").startswith("cuda")
    if wants_gpu and not gpus:
        raise ConfigError(f"device: expected GPUs in the Ray cluster, got {job.device!r} and none are there")
    return _share_gpus(job, gpus) if wants_gpu else _share_cpus(job, resources.get("CPU", 1.0), is_local=is_local)


def _share_gpus(job: EncodeJob, gpus: float) -> Cluster:
    share = job.gpus_per_actor or 1.0
    cpus = job.cpus_per_actor or 1
    return Cluster(
        device="cuda",  # an actor sees the card that Ray gave it, and no other
        actors=job.actor_range() or (1, max(1, int(gpus / share))),
        cpus_per_actor=cpus,
        gpus_per_actor=share,
        threads_per_actor=cpus,
    )


def _share_cpus(job: EncodeJob, cpus: float, *, is_local: bool) -> Cluster:
    low, high = job.actor_range() or (1, 1)
    cores = int(cpus) if is_local else min(int(cpus), os.cpu_count() or 1)
    share = job.cpus_per_actor or max(1, cores // high)
    if share * low > cpus:
        raise ConfigError(f"actors: expected {low} of {share} CPUs each to fit Ray's {cpus:.0f} CPUs")
    return Cluster(
        device=str(resolve_device(job.device)) if job.device not in (None, "auto") else "cpu",
        actors=(low, high),
        cpus_per_actor=share,
        gpus_per_actor=0.0,
        threads_per_actor=share,
    )
