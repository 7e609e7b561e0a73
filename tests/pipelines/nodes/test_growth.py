"""Waiting for nodes that an autoscaler adds: when it goes on, when it ends, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pipelines.nodes import growth
from pipelines.nodes.autoscaler import News, describe_first, describe_second
from pipelines.nodes.growth import await_capacity
from pipelines.nodes.selectors import Needs

NEEDS = [Needs(resources={"CPU": 1, "GPU": 1}), Needs(resources={"CPU": 1})]


class Group:
    """A placement group that is there after so many looks; a look takes a second."""

    id = bytes.fromhex("ab" * 18)

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.now = 0.0
        self.is_removed = False

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.looks -= 1
        return self.looks < 0


def ask(group: Group, news: Sequence[News | None], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What becomes of the question, where the autoscaler says this and from then on the last again."""

    @contextmanager
    def asking_for(needs: Sequence[Needs]) -> Iterator[Group]:
        assert needs == NEEDS
        yield group
        group.is_removed = True

    said = iter(news)
    monkeypatch.setattr(growth, "_asking_for", asking_for)
    monkeypatch.setattr(growth, "read_news", lambda: next(said, news[-1]))
    monkeypatch.setattr(growth.time, "monotonic", lambda: group.now)
    why_not = await_capacity(NEEDS, silence=30, every=1)
    assert group.is_removed
    return why_not


def at_work(count: int, **news: Any) -> list[News]:
    """An autoscaler that is starting a node, and says so again and again."""
    return [News(version=str(number), coming=("gpu",), **news) for number in range(count)]


def test_a_job_waits_as_long_as_nodes_are_being_started_and_says_so_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(Group(looks=200), at_work(200, failures=("gpu: no quota",)), monkeypatch) is None
    said = caplog.messages
    assert (
        said[0] == "no node has room for an actor that takes CPU 1, GPU 1 and for one that takes CPU 1: asking for one"
    )
    assert said[1] == "1 s: nodes are being started (gpu); it failed to start others: gpu: no quota"
    assert len(said) == 2 + 3


def test_an_autoscaler_that_starts_nothing_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(looks=1000)
    assert ask(group, [News(version="1", failures=("gpu: no quota",))], monkeypatch) == (
        "no autoscaler is starting a node; it failed to start others: gpu: no quota"
    )
    assert 30 < group.now < 33


def test_one_that_died_while_it_was_starting_a_node_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps its last words for ever."""
    group = Group(looks=1000)
    assert ask(group, at_work(10), monkeypatch) == "no autoscaler is starting a node"
    assert 40 <= group.now < 45


def test_a_control_store_that_does_not_answer_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(looks=60)
    assert ask(group, [None, *at_work(20), *[None] * 20, *at_work(40)], monkeypatch) is None


def test_what_the_autoscaler_has_no_nodes_for_ends_it_at_once_whatever_it_starts_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = Group(looks=1000)
    news = at_work(5, infeasible=frozenset({"cd" * 18})) + at_work(50, infeasible=frozenset({"ab" * 18}))
    assert ask(group, news, monkeypatch) == "the cluster's autoscaler has no such nodes to add"
    assert group.now == 6


@pytest.mark.parametrize(
    ("report", "coming"),
    [
        ({}, ()),
        ({"active_nodes": {"worker": 1}, "pending_nodes": [], "pending_launches": {}}, ()),
        ({"pending_nodes": [], "pending_launches": {"worker": 1}}, ("worker",)),
        ({"pending_nodes": [["10.0.0.1", "worker", "setting-up"]], "pending_launches": {}}, ("worker",)),
    ],
)
def test_an_autoscaler_of_the_first_kind_says_what_it_is_starting(report: dict[str, Any], coming: tuple[str]) -> None:
    assert describe_first({"time": 1.5, "autoscaler_report": report}) == News(version="1.5", coming=coming)


def test_an_autoscaler_of_the_first_kind_says_what_it_cannot_start() -> None:
    why = {"category": "Quota", "description": "no quota\nfor you"}
    seen = {"a": {"unavailable_node_information": why}, "b": {"unavailable_node_information": None}}
    report = {"node_availability_summary": {"node_availabilities": seen}}
    assert describe_first({"autoscaler_report": report}).failures == ("no quota for you",)
    assert describe_first({}) == News()


def test_an_autoscaler_of_the_second_kind_says_all_of_it() -> None:
    pb2 = pytest.importorskip("ray.core.generated.autoscaler_pb2", reason="needs ray[data]")
    state = pb2.AutoscalingState(
        autoscaler_state_version=2,
        last_seen_cluster_resource_state_version=7,
        pending_instance_requests=[pb2.PendingInstanceRequest(ray_node_type_name="gpu", count=1)],
        pending_instances=[pb2.PendingInstance(ray_node_type_name="cpu")],
        failed_instance_requests=[pb2.FailedInstanceRequest(ray_node_type_name="gpu", reason="no quota")],
        infeasible_gang_resource_requests=[pb2.GangResourceRequest(details="abcd:PACK|PENDING")],
    )
    assert describe_second(state) == News(
        version="7", coming=("gpu", "cpu"), failures=("gpu: no quota",), infeasible=frozenset({"abcd"})
    )
