"""Where actors run, and what each node's share of a run was."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from pipelines.commit.counts import Cost, Counts
from t5enc.fields.parts import show_values


@dataclass(frozen=True, slots=True)
class Place:
    """An actor, which keeps its name when Ray starts it again, and its node; `is_alone` is one for a single suspect."""

    actor: str
    node: str
    is_alone: bool = False


@show_values
@dataclass(slots=True, kw_only=True)
class PlaceSums:
    """What an actor did, or all actors of one kind of device on a node."""

    node: str
    device: str = ""
    actors: int = 1
    starts: int = 0
    counts: Counts = field(default_factory=Counts)
    cost: Cost = field(default_factory=Cost)

    def add(self, counts: Counts, cost: Cost) -> None:
        """More was committed there."""
        self.counts += counts
        self.cost += cost


def find_place(*, is_alone: bool = False) -> Place:
    """Of the Ray actor that calls this."""
    import ray

    return Place(str(ray.get_runtime_context().get_actor_id()), socket.gethostname(), is_alone)


def name_device(device: torch.device | str) -> str:
    """What computes there: the card's name, or that it is this machine's CPU."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device)


def sum_places(places: Iterable[PlaceSums]) -> list[PlaceSums]:
    """One for each node and kind of device, in the order of their names."""
    found: dict[tuple[str, str], PlaceSums] = {}
    for place in places:
        sums = found.setdefault((place.node, place.device), PlaceSums(node=place.node, device=place.device, actors=0))
        sums.actors += place.actors
        sums.starts += place.starts
        sums.add(place.counts, place.cost)
    return [found[key] for key in sorted(found)]
