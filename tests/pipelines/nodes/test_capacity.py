"""Which CPUs tokenizers take, and what is left for encoders."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import EncodeJob
from pipelines.nodes.capacity import reserve_cpus
from pipelines.nodes.selectors import Needs, Node, count_fitting
from pipelines.nodes.shares import Cluster, share_out
from t5enc.errors import ConfigError


def node(labels: dict[str, str] | None = None, **resources: float) -> Node:
    return Node(id="n", address="10.0.0.1", resources=resources, labels=labels or {})


def share(*nodes: Node, is_local: bool = False, **options: Any) -> Cluster:
    job = EncodeJob(inputs=["in"], output="out", model="m", ray_address=None if is_local else "auto", **options)
    return share_out(job, nodes, is_local=is_local)


NODES = st.lists(st.builds(lambda cpu, gpu: node(CPU=cpu, GPU=gpu), st.integers(0, 9), st.integers(0, 4)), max_size=4)


@given(NODES, st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 20))
def test_no_encoder_loses_its_place_and_no_cpu_is_taken_twice(nodes: list[Node], card: float, count: int) -> None:
    encoder = Needs(resources={"CPU": 1, "GPU": card})
    reserved, left = reserve_cpus(nodes, encoder, count)
    taken = [before.resources["CPU"] - after.resources["CPU"] for before, after in zip(nodes, left, strict=True)]
    assert sum(taken) == reserved <= count
    assert min(taken, default=0) >= 0
    if card:
        assert count_fitting(left, encoder) == count_fitting(nodes, encoder)
    else:
        assert all(after.resources["CPU"] >= 1 for after in left if after.resources["CPU"] or taken[left.index(after)])


def test_tokenizers_come_to_nodes_without_cards_first() -> None:
    cluster = share(node(CPU=8, GPU=4), node(CPU=8), tokenizers="2:10")
    assert (cluster.tokenizers, cluster.actors, cluster.warm) == ((2, 10), (1, 4), 4)
    _, (cards, plain) = reserve_cpus([node(CPU=8, GPU=4), node(CPU=8)], Needs(resources={"CPU": 1, "GPU": 1}), 10)
    assert (cards.resources["CPU"], plain.resources["CPU"]) == (6, 0)


def test_they_are_not_bound_to_what_encoders_ask_of_a_node() -> None:
    nodes = (node({"zone": "a"}, CPU=2, slot=1), node({"zone": "b"}, CPU=4))
    cluster = share(*nodes, device="cpu", tokenizers=4, label_selector={"zone": "a"}, resources={"slot": 1})
    assert (cluster.tokenizers, cluster.actors, cluster.cpus_per_actor) == ((4, 4), (1, 1), 2)


def test_an_encoder_on_cpus_gets_the_cores_that_they_leave() -> None:
    cluster = share(node(CPU=8), is_local=True, tokenizers=3)
    assert (cluster.tokenizers, cluster.cpus_per_actor, cluster.threads_per_actor) == ((3, 3), 5, 5)
    assert share(node(CPU=8), is_local=True).cpus_per_actor == 8


def test_fewer_will_do_on_a_cluster_and_on_ones_own_machine_more_is_a_mistake() -> None:
    assert share(node(CPU=4), tokenizers="9:12").tokenizers == (3, 12)
    with pytest.raises(
        ConfigError,
        match=r"^tokenizers: expected room for 9 that take CPU 1 each beside encoders that take CPU 1, "
        r"got room for 3 on 1 node\(s\): 10.0.0.1 \(CPU 4\)",
    ):
        share(node(CPU=4), is_local=True, tokenizers=9)


def test_where_none_has_room_it_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^tokenizers: expected room for 2 .* beside .*GPU 1, got room for 0"):
        share(node(CPU=4, GPU=4), tokenizers=2)


def test_encoders_that_lack_the_cpus_of_tokenizers_are_told_so() -> None:
    said = r"^actors: expected room for 3 .* each beside tokenizers that take their CPUs first \(2\), got room for 2 "
    with pytest.raises(ConfigError, match=said):
        share(node(CPU=4), is_local=True, actors=3, tokenizers=2)
