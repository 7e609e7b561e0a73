"""What a cluster's autoscaler says of itself, of Ray's first kind or the second."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.nodes.ray_internals import read_autoscalers

SHOWN_FAILURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What an autoscaler has last said: `version` changes each time, so one that is dead is told from one at work.

    `coming` are nodes that it is starting, for whomever; `failures` why it could not start others. `infeasible` are
    the placement groups, as hex, for which it has no kind of node: only the second kind of autoscaler says so.
    """

    version: str = ""
    coming: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    infeasible: frozenset[str] = frozenset()


def read_news() -> News | None:
    """What the autoscaler of this process's Ray says now; None where Ray does not answer in time."""
    reports = read_autoscalers()
    if reports is None:
        return None
    if reports.second.last_seen_cluster_resource_state_version:
        return describe_second(reports.second)
    return describe_first(reports.first)


def describe_first(status: Mapping[str, Any]) -> News:
    """What an autoscaler of the first kind keeps for `ray status`."""
    report: Mapping[str, Any] = status.get("autoscaler_report") or {}
    launches: Mapping[str, int] = report.get("pending_launches") or {}
    refused = ((report.get("node_availability_summary") or {}).get("node_availabilities") or {}).values()
    reasons = (record.get("unavailable_node_information") or {} for record in refused)
    return News(
        version=str(status.get("time", "")),
        coming=(*launches, *(str(kind) for _, kind, *_ in report.get("pending_nodes") or ())),
        failures=_shorten(str(reason["description"]) for reason in reasons if reason.get("description")),
    )


def describe_second(state: Any) -> News:
    """What an autoscaler of the second kind reports, an `AutoscalingState`."""
    coming = (*state.pending_instance_requests, *state.pending_instances)
    failed = (f"{request.ray_node_type_name}: {request.reason}" for request in state.failed_instance_requests)
    return News(
        # The version of the state itself stands still while a cloud starts a machine.
        version=str(state.last_seen_cluster_resource_state_version),
        coming=tuple(node.ray_node_type_name for node in coming),
        failures=_shorten(failed),
        infeasible=frozenset(gang.details.partition(":")[0] for gang in state.infeasible_gang_resource_requests),
    )


def _shorten(reasons: Iterable[str]) -> tuple[str, ...]:
    """The newest of them, in one line each."""
    return tuple(" ".join(reason.split())[:200] for reason in list(dict.fromkeys(reasons))[-SHOWN_FAILURES:])
