"""Whose fault a death is: that of a unit in hand, unless its node went in good order."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from pipelines.commit.counts import Cost, Counts
from pipelines.nodes.leaving import find_leaving
from pipelines.progress.findings import Findings
from pipelines.progress.ledger import ATTEMPTS, Ledger


def test_a_unit_in_hand_on_nodes_that_leave_is_no_suspect() -> None:
    ledger = Ledger()
    for number in range(5):
        assert ledger.begin("u", f"spot {number}")
        ledger.leave({f"spot {number}"})
    assert ledger.find_suspects(["u"]) == []


def test_a_unit_in_hand_on_nodes_that_vanish_is_a_suspect_after_two() -> None:
    ledger = Ledger()
    for number in range(ATTEMPTS):
        assert ledger.begin("u", f"node {number}")
    assert ledger.find_suspects(["u"]) == ["u"]


def test_a_node_that_turns_out_to_have_left_is_forgiven_afterwards() -> None:
    ledger = Ledger()
    ledger.begin("u", "a")
    ledger.begin("u", "b")
    ledger.leave({"a"})
    assert ledger.find_suspects(["u"]) == []
    ledger.begin("u", "c")
    assert ledger.find_suspects(["u"]) == ["u"]


def test_a_node_that_is_leaving_begins_nothing_and_is_told_so_at_the_end_of_a_unit() -> None:
    ledger = Ledger()
    assert ledger.begin("u", "here")
    ledger.leave({"here"})
    assert not ledger.begin("v", "here")
    assert not ledger.end("u", "actor", Counts(), Cost(), Findings(), "here")
    assert ledger.begin("v", "there")
    assert ledger.end("v", "actor", Counts(), Cost(), Findings(), "there")


def test_nodes_that_drain_or_ended_in_good_order_are_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"stopped": 1, "vanished": 2, "preempted": 3, "idle": 4}
    nodes = [{"NodeID": name, "Alive": False, "DeathReason": reason} for name, reason in reasons.items()]
    nodes.append({"NodeID": "alive", "Alive": True, "DeathReason": 0})
    ray = pytest.importorskip("ray", reason="needs ray[data]")
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(
        sys.modules["ray._private.state"], "state", SimpleNamespace(get_draining_nodes=lambda: {"draining": 0})
    )
    assert find_leaving() == {"stopped", "preempted", "idle", "draining"}
