"""Which nodes accept an actor, and how many of them there is room for."""

from __future__ import annotations

import pytest

from pipelines.nodes import selectors
from pipelines.nodes.selectors import Needs, Node, accepts, count_cpus, count_fitting, list_in_words


def node(number: int = 1, labels: dict[str, str] | None = None, **resources: float) -> Node:
    return Node(id=str(number), address=f"10.0.0.{number}", resources=resources, labels=labels or {})


@pytest.mark.parametrize(
    ("share", "nodes", "room"),
    [
        ({"CPU": 2}, [node(CPU=5), node(CPU=1)], 2),
        ({"CPU": 1, "GPU": 1.0}, [node(CPU=8, GPU=4), node(CPU=2, GPU=4), node(CPU=8)], 6),
        ({"CPU": 1, "GPU": 0.25}, [node(CPU=8, GPU=1)], 4),
        ({"CPU": 1, "GPU": 0.1}, [node(CPU=80, GPU=1)], 10),
        ({"CPU": 1, "GPU": 2.0}, [node(CPU=8, GPU=3)] * 4, 4),
        ({"CPU": 1, "slot": 0.5}, [node(CPU=8, slot=1), node(CPU=8)], 2),
        ({"CPU": 1, "GPU": 0.0}, [node(CPU=3)], 3),
        ({"CPU": 1}, [node(CPU=0), node(GPU=1)], 0),
    ],
)
def test_an_actor_fits_on_one_node_or_not_at_all(share: dict[str, float], nodes: list[Node], room: int) -> None:
    assert count_fitting(nodes, Needs(resources=share)) == room


def test_a_share_of_a_card_lies_on_one_card() -> None:
    """Two cards have room for two actors of three quarters, and for four of two fifths."""
    two_cards = [node(CPU=8, GPU=2)]
    assert count_fitting(two_cards, Needs(resources={"GPU": 0.75})) == 2
    assert count_fitting(two_cards, Needs(resources={"GPU": 0.4})) == 4


@pytest.mark.parametrize(
    ("wanted", "accepted"),
    [
        ("a", ["a"]),
        ("!a", ["b", None]),
        ("in(a, b)", ["a", "b"]),
        ("in(a,c)", ["a"]),
        ("!in(a, b)", [None]),
        ("c", []),
    ],
)
def test_labels_are_selected_in_the_words_of_ray(wanted: str, accepted: list[str | None]) -> None:
    values: list[str | None] = ["a", "b", None]
    found = [value for value in values if accepts({"zone": wanted}, {} if value is None else {"zone": value})]
    assert found == accepted


def test_only_nodes_with_the_labels_count() -> None:
    nodes = [node(CPU=4, labels={"zone": "a"}), node(CPU=8, labels={"zone": "b"}), node(CPU=2)]
    assert count_fitting(nodes, Needs(resources={"CPU": 1}, labels={"zone": "a"})) == 4


@pytest.mark.parametrize(("nodes", "cpus"), [([node(CPU=4)], 0), ([node(CPU=4), node(GPU=1), node(CPU=2.5)], 6)])
def test_the_cpus_of_a_cluster_count_and_those_of_one_machine_do_not(
    nodes: list[Node], cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selectors, "list_nodes", lambda: nodes)
    assert count_cpus() == cpus


def test_a_message_lists_what_nodes_have_and_not_too_many_of_them() -> None:
    nodes = [node(i, CPU=2, memory=1e9, **{"node:10.0.0.1": 1}, labels={"zone": "a"}) for i in range(1, 11)]
    said = list_in_words(nodes)
    assert said.startswith("10.0.0.1 (CPU 2, zone=a); 10.0.0.2 (CPU 2, zone=a); ")
    assert said.endswith("; and 2 more")
