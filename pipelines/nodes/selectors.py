"""Which nodes of a cluster an actor may run on, and how many actors fit there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Ray's own name for a card's type is a resource of which a card's user takes a trace.
TYPE_PREFIX = "accelerator_type:"
TYPE_AMOUNT = 0.001
# Resources that nobody asks for by name, and how many nodes a message lists.
UNSPOKEN = ("node:", "memory", "object_store_memory")
SHOWN_NODES = 8
# Sums of shares that are a hair above a whole still fit.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that is alive: what it has of each resource in all, and its labels."""

    id: str
    address: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        spoken = {name: amount for name, amount in self.resources.items() if not name.startswith(UNSPOKEN)}
        labels = {name: value for name, value in self.labels.items() if name != "ray.io/node-id"}
        return f"{self.address} ({describe(spoken, labels)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an actor takes of its node's resources, and the labels that the node must have."""

    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return describe(self.resources, self.labels)


def describe(resources: Mapping[str, float], labels: Mapping[str, str]) -> str:
    """Amounts and labels in one line."""
    amounts = [f"{name} {amount:g}" for name, amount in sorted(resources.items())]
    return ", ".join([*amounts, *(f"{name}={value}" for name, value in sorted(labels.items()))]) or "nothing"


def list_nodes() -> list[Node]:
    """The nodes of this process's Ray that are alive."""
    import ray

    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            resources=dict(node["Resources"]),
            labels=dict(node.get("Labels") or {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def count_cpus() -> int:
    """CPUs of the Ray that this process is connected to; 0 where that is one machine, and threads do as well."""
    nodes = list_nodes()
    return int(sum(node.resources.get("CPU", 0.0) for node in nodes)) if len(nodes) > 1 else 0


def count_fitting(nodes: Sequence[Node], needs: Needs) -> int:
    """How many actors fit on these nodes in all: none of them is ever spread over two."""
    return sum(_count_on(node, needs) for node in nodes)


def _count_on(node: Node, needs: Needs) -> int:
    if not accepts(needs.labels, node.labels):
        return 0
    counts = [_divide(name, node.resources.get(name, 0.0), share) for name, share in needs.resources.items() if share]
    return min(counts, default=0)


def _divide(name: str, amount: float, share: float) -> int:
    """Shares in an amount; a share of less than a GPU lies on one card."""
    if name == "GPU" and share < 1:
        return int(amount) * int(1 / share + ROUNDING)
    return int(amount / share + ROUNDING)


def accepts(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels are what a selector asks for, in Ray's words: `a`, `!a`, `in(a, b)` or `!in(a, b)`."""
    return all(_accepts_value(wanted, labels.get(name)) for name, wanted in selector.items())


def _accepts_value(wanted: str, found: str | None) -> bool:
    names = wanted.removeprefix("!")
    choices = names[3:-1].split(",") if names.startswith("in(") else [names]
    return (found in [choice.strip() for choice in choices]) != wanted.startswith("!")


def list_in_words(nodes: Sequence[Node]) -> str:
    """The nodes and what they have, for a message."""
    shown = "; ".join(map(str, nodes[:SHOWN_NODES])) or "none"
    return shown + (f"; and {len(nodes) - SHOWN_NODES} more" if len(nodes) > SHOWN_NODES else "")
