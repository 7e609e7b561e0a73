"""What actors get of a cluster's nodes: how many there are, and each one's GPUs and CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.job import EncodeJob
from pipelines.nodes.capacity import reserve_cpus
from pipelines.nodes.selectors import (
    TYPE_AMOUNT,
    TYPE_PREFIX,
    Needs,
    Node,
    accepts,
    count_fitting,
    list_in_words,
)
from pipelines.nodes.versions import Code
from t5enc.errors import ConfigError
from t5enc.options import resolve_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How many actors, what each of them gets, and what it asks of its node.

    `warm` actors start at once. Each of the `tokenizers` (fewest, most) takes a CPU anywhere. `code` is what each
    must run, where that is not this process's anyway.
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


def share_out(job: EncodeJob, nodes: Sequence[Node], *, is_local: bool) -> Cluster:
    """Actors and their share: one a GPU, or on CPUs one a node that gets all its cores, unless the job says otherwise.

    Only nodes that an actor may run on count. ConfigError where it may run on none.
    """
    gpus = _choose_gpus(job, nodes, is_local=is_local)
    if gpus and not _count_gpus(nodes):
        raise ConfigError(f"{_name_wish(job)} and none are there")
    extra = _extra_needs(job, gpus)
    tokenizers, nodes = _choose_tokenizers(job, nodes, _add_cpus(extra, job.cpus_per_actor or 1), is_local=is_local)
    cpus = job.cpus_per_actor or (1 if gpus else _choose_cpus(job, nodes, extra))
    low, high, warm = _choose_actors(job, nodes, _add_cpus(extra, cpus), is_local=is_local)
    return Cluster(
        device=_name_device(job, wants_gpu=gpus > 0),
        actors=(low, high),
        warm=warm,
        cpus_per_actor=cpus,
        gpus_per_actor=gpus,
        threads_per_actor=cpus,
        tokenizers=tokenizers,
        resources=job.resources,
        label_selector=job.label_selector,
        accelerator_type=job.accelerator_type,
    )


def list_least(job: EncodeJob, nodes: Sequence[Node]) -> list[Needs]:
    """What a cluster must have room for if the job is to get on: an encoder, and a tokenizer if it has some."""
    encoder = _add_cpus(_extra_needs(job, _choose_gpus(job, nodes, is_local=False)), job.cpus_per_actor or 1)
    return [encoder, Needs(resources={"CPU": 1})] if job.tokenizer_range()[1] else [encoder]


def _choose_gpus(job: EncodeJob, nodes: Sequence[Node], *, is_local: bool) -> float:
    """GPUs of an actor: where some are there or are asked for, and 0 for CPUs."""
    if is_local and resolve_device(job.encoder.device).type != "cuda":
        return 0.0  # Ray counts cards that this PyTorch cannot use
    wants = _name_wish(job) is not None or (job.encoder.device in (None, "auto") and _count_gpus(nodes) > 0)
    return (job.gpus_per_actor or 1.0) if wants else 0.0


def _count_gpus(nodes: Sequence[Node]) -> float:
    return sum(node.resources.get("GPU", 0.0) for node in nodes)


def _name_wish(job: EncodeJob) -> str | None:
    """The option that asks for cards, and what it says; None where none does, or where the device is another."""
    wishes: dict[str, Any] = {"gpus_per_actor": job.gpus_per_actor, "accelerator_type": job.accelerator_type}
    if (device := job.encoder.device) not in (None, "auto"):
        wishes = {"device": device} if str(device).startswith("cuda") else {}
    found = next((name for name, wish in wishes.items() if wish is not None), None)
    return None if found is None else f"{found}: expected GPUs in the Ray cluster, got {wishes[found]!r}"


def _name_device(job: EncodeJob, *, wants_gpu: bool) -> str:
    """An actor on a GPU sees the card that Ray gave it, and no other."""
    if wants_gpu:
        return "cuda"
    return str(resolve_device(job.encoder.device)) if job.encoder.device not in (None, "auto") else "cpu"


def _extra_needs(job: EncodeJob, gpus: float) -> Needs:
    """What an actor asks of its node besides CPUs."""
    traces = {} if job.accelerator_type is None else {TYPE_PREFIX + job.accelerator_type: TYPE_AMOUNT}
    cards = {"GPU": gpus} if gpus else {}
    return Needs(resources=dict(job.resources) | traces | cards, labels=job.label_selector)


def _add_cpus(extra: Needs, cpus: float) -> Needs:
    return replace(extra, resources={**extra.resources, "CPU": cpus})


def _choose_tokenizers(
    job: EncodeJob, nodes: Sequence[Node], encoder: Needs, *, is_local: bool
) -> tuple[tuple[int, int], Sequence[Node]]:
    """The fewest tokenizers, the most, and the nodes without the CPUs that they take.

    As with encoders, on a cluster fewer than asked for will do, as long as there is one.
    """
    low, high = job.tokenizer_range()
    reserved, rest = reserve_cpus(nodes, encoder, high)
    if high and reserved < (low if is_local else 1):
        raise ConfigError(
            f"tokenizers: expected room for {low} that take CPU 1 each beside encoders that take {encoder}, "
            f"got room for {reserved} on {len(nodes)} node(s): {list_in_words(nodes)}"
        )
    return (min(low, reserved), reserved if is_local else high), rest


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


def _choose_actors(job: EncodeJob, nodes: Sequence[Node], needs: Needs, *, is_local: bool) -> tuple[int, int, int]:
    """The fewest actors, the most, and how many start at once.

    On a cluster fewer than asked for will do, as long as there is one: nodes come and go.
    """
    fitting = count_fitting(nodes, needs)
    bounds = job.actor_range()
    if not fitting or (is_local and bounds and fitting < bounds[0]):
        wanted = bounds[0] if bounds else 1
        raise ConfigError(
            f"actors: expected room for {wanted} that take {needs} each{_describe_others(job)}, "
            f"got room for {fitting} on {len(nodes)} node(s): {list_in_words(nodes)}"
        )
    if bounds is None:
        return 1, fitting, fitting
    low, high = min(bounds[0], fitting), bounds[1]
    return low, high, low


def _describe_others(job: EncodeJob) -> str:
    """Whose CPUs are not counted where encoders have too little room."""
    return f" beside tokenizers that take their CPUs first ({job.tokenizers})" if job.tokenizer_range()[1] else ""
