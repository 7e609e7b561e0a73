"""The processes of a running service, and what becomes of one that is killed."""

from __future__ import annotations

import signal
from collections.abc import Callable

import psutil

from tests import waiting
from tests.serve_app.running.service import Service

# Only for a test that would otherwise never end.
PATIENCE = 120.0
REPLICA, MANAGER, HAPROXY = "ray::ServeReplica:default:t5enc", "ray::HAProxyManager", "haproxy"


def find_process(service: Service, name: str) -> psutil.Process | None:
    """The youngest process below the service whose name begins so."""
    found = [child for child in service.children() if read_name(child).startswith(name)]
    return max(found, key=lambda child: child.create_time(), default=None)


def read_name(process: psutil.Process) -> str:
    """Its name; none of one that is gone."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    except psutil.NoSuchProcess:
        return ""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when it holds: of other processes nothing says when."""
    waiting.wait_until(condition, lambda: what, seconds=PATIENCE, every=0.1)


def kill_and_await_another(service: Service, name: str) -> None:
    """SIGKILL to the process of that name; returns when another has taken its place."""
    old = find_process(service, name)
    assert old is not None
    old.send_signal(signal.SIGKILL)
    wait_until(lambda: (new := find_process(service, name)) is not None and new.pid != old.pid, f"no other {name}")
