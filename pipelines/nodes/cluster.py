"""The Ray that a run works on: one of its own on this machine, or a cluster it joins; and what an actor gets of it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from pipelines.job import EncodeJob
from pipelines.nodes.growth import await_node
from pipelines.nodes.room import set_aside
from pipelines.nodes.selectors import (
    TYPE_AMOUNT,
    TYPE_PREFIX,
    Needs,
    Node,
    accepts,
    count_fitting,
    list_in_words,
    list_nodes,
)
from pipelines.nodes.versions import Code, check_nodes
from t5enc.errors import ConfigError, DriverError
from t5enc.options import resolve_device

# Only tasks and records pass through the object store, never embeddings.
OBJECT_STORE_BYTES = 128 << 20
ANSWER_SECONDS = 10.0
SHIPPED = ("t5enc", "pipelines")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How many actors, what each of them gets, and what it asks of its node.

    `warm` actors start at once. Each of the `tokenizers` (fewest, most) takes a CPU anywhere. `needs` says the same of
    an encoder as its options do. `code` is what each must run, where that is not this process's anyway.
    """

    device: str
    actors: tuple[int, int]
    warm: int
    cpus_per_actor: float
    gpus_per_actor: float
    threads_per_actor: int
    tokenizers: tuple[int, int] = (0, 0)
    resources: Mapping[str, float] = field(default_factory=dict)
    label_selector: Mapping[str, str] = field(default_factory=dict)
    accelerator_type: str | None = None
    needs: Needs = field(default_factory=Needs)
    code: Code | None = None

    def actor_options(self) -> dict[str, Any]:
        """What Ray is told of an actor, in the words that `map_batches` and `ray.remote` share."""
        options: dict[str, Any] = {"num_cpus": self.cpus_per_actor}
        if self.gpus_per_actor:
            options["num_gpus"] = self.gpus_per_actor
        if self.resources:
            options["resources"] = dict(self.resources)
        if self.label_selector:
            options["label_selector"] = dict(self.label_selector)
        if self.accelerator_type is not None:
            options["accelerator_type"] = self.accelerator_type
        return options


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
        nodes, cluster = _find_room(job)
        yield replace(cluster, code=check_nodes(nodes)) if job.ray_address or len(nodes) > 1 else cluster
    finally:
        if is_ours:
            ray.shutdown()


def _find_room(job: EncodeJob) -> tuple[list[Node], Cluster]:
    """The nodes and what actors get of them, once a node has come where none has room and the cluster can grow."""
    nodes, is_local = list_nodes(), job.ray_address is None
    try:
        return nodes, share_out(job, nodes, is_local=is_local)
    except ConfigError as error:
        if is_local:
            raise
        if not await_node(share_out(job, nodes, is_local=False, may_grow=True).needs):
            raise ConfigError(f"{error}; and no autoscaler is starting a node") from None
    nodes = list_nodes()
    return nodes, share_out(job, nodes, is_local=False, may_grow=True)


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


def _start(job: EncodeJob) -> None:
    import ray

    try:
        if job.ray_address is not None:
            _join(job, job.ray_address)
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


def share_out(job: EncodeJob, nodes: Sequence[Node], *, is_local: bool, may_grow: bool = False) -> Cluster:
    """Actors and their share: one a GPU, or on CPUs one a node that gets all its cores, unless the job says otherwise.

    Only nodes that an actor may run on count. ConfigError where it may run on none, and none may be added.
    """
    gpus = sum(node.resources.get("GPU", 0.0) for node in nodes)
    if is_local and resolve_device(job.device).type != "cuda":
        gpus = 0.0  # Ray counts cards that this PyTorch cannot use
    asks_for_gpu = (job.device or "").startswith("cuda")
    if asks_for_gpu and not gpus and not may_grow:
        raise ConfigError(f"device: expected GPUs in the Ray cluster, got {job.device!r} and none are there")
    wants_gpu = asks_for_gpu or (gpus > 0 and job.device in (None, "auto"))
    share = (job.gpus_per_actor or 1.0) if wants_gpu else 0.0
    extra = _extra_needs(job, share)
    least = _add_cpus(extra, job.cpus_per_actor or 1)
    tokenizers, nodes = _choose_tokenizers(job, nodes, least, is_local=is_local, may_grow=may_grow)
    cpus = job.cpus_per_actor or (1 if wants_gpu else _choose_cpus(job, nodes, extra))
    needs = _add_cpus(extra, cpus)
    low, high, warm = _choose_actors(job, nodes, needs, is_local=is_local, may_grow=may_grow)
    return Cluster(
        device=_name_device(job, wants_gpu=wants_gpu),
        actors=(low, high),
        warm=warm,
        cpus_per_actor=cpus,
        gpus_per_actor=share,
        threads_per_actor=cpus,
        tokenizers=tokenizers,
        resources=job.resources,
        label_selector=job.label_selector,
        accelerator_type=job.accelerator_type,
        needs=needs,
    )


def _name_device(job: EncodeJob, *, wants_gpu: bool) -> str:
    """An actor on a GPU sees the card that Ray gave it, and no other."""
    if wants_gpu:
        return "cuda"
    return str(resolve_device(job.device)) if job.device not in (None, "auto") else "cpu"


def _extra_needs(job: EncodeJob, gpus: float) -> Needs:
    """What an actor asks of its node besides CPUs."""
    traces = {} if job.accelerator_type is None else {TYPE_PREFIX + job.accelerator_type: TYPE_AMOUNT}
    cards = {"GPU": gpus} if gpus else {}
    return Needs(resources=dict(job.resources) | traces | cards, labels=job.label_selector)


def _add_cpus(extra: Needs, cpus: float) -> Needs:
    return replace(extra, resources={**extra.resources, "CPU": cpus})


def _choose_tokenizers(
    job: EncodeJob, nodes: Sequence[Node], encoder: Needs, *, is_local: bool, may_grow: bool
) -> tuple[tuple[int, int], Sequence[Node]]:
    """The fewest tokenizers, the most, and the nodes without the CPUs that they take.

    As with encoders, on a cluster fewer than asked for will do, as long as there is one.
    """
    low, high = job.tokenizer_range()
    room, rest = set_aside(nodes, encoder, high)
    if high and not may_grow and room < (low if is_local else 1):
        raise ConfigError(
            f"tokenizers: expected room for {low} that take CPU 1 each beside encoders that take {encoder}, "
            f"got room for {room} on {len(nodes)} node(s): {list_in_words(nodes)}"
        )
    return (low if may_grow else min(low, room), room if is_local else high), rest


def _choose_cpus(job: EncodeJob, nodes: Sequence[Node], extra: Needs) -> int:
    """The most CPUs an actor with which as many fit as are asked for; by default one on every node."""
    cores = [int(node.resources.get("CPU", 0)) for node in nodes if _may_host(node, extra)]
    cores = [count for count in cores if count] or [1]
    bounds = job.actor_range()
    if bounds is None:
        return min(cores)
    for share in range(max(cores), 1, -1):
        if count_fitting(nodes, _add_cpus(extra, share)) >= bounds[1]:
            return share
    return 1


def _may_host(node: Node, extra: Needs) -> bool:
    has_all = all(node.resources.get(name, 0.0) >= amount for name, amount in extra.resources.items())
    return has_all and accepts(extra.labels, node.labels)


def _choose_actors(
    job: EncodeJob, nodes: Sequence[Node], needs: Needs, *, is_local: bool, may_grow: bool
) -> tuple[int, int, int]:
    """The fewest actors, the most, and how many start at once.

    On a cluster fewer than asked for will do, as long as there is one: nodes come and go.
    """
    fitting = count_fitting(nodes, needs)
    bounds = job.actor_range()
    if (not fitting and not may_grow) or (is_local and bounds and fitting < bounds[0]):
        wanted = bounds[0] if bounds else 1
        raise ConfigError(
            f"actors: expected room for {wanted} that take {needs} each{_describe_others(job)}, "
            f"got room for {fitting} on {len(nodes)} node(s): {list_in_words(nodes)}"
        )
    if bounds is None:
        return 1, max(1, fitting), max(1, fitting)
    low, high = bounds
    low = low if may_grow else min(low, fitting)
    return low, high, low


def _describe_others(job: EncodeJob) -> str:
    """Whose CPUs are not counted where encoders have too little room."""
    return f" beside tokenizers that take their CPUs first ({job.tokenizers})" if job.tokenizer_range()[1] else ""
