"""A Ray cluster on this machine as KubeRay starts one: a head without CPUs, workers that join it, a token for all."""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import ray

from serve_app.deploy.haproxy import find_ports
from tests.cluster.patience import wait_until
from tests.cluster.processes import kill_processes, list_processes
from tests.cluster.ray_start.growth import ENVIRONMENT, write_growth

BIN = Path(sys.executable).parent
# Not --block: on a busy machine the server of ray://, which nothing here uses, gives up and would take the rest along.
NODE = ["--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={100 << 20}"]


class RayCluster:
    """Nodes that `ray start` has started, with a folder and a token of their own."""

    def __init__(self, folder: Path, grows_to: int = 0) -> None:
        """Starts the head, and returns when its dashboard answers; an autoscaler may add so many nodes."""
        self.folder = folder
        self._port, self.dashboard_port, self.agent_port, client_port = find_ports(4)
        self.host = ray.util.get_node_ip_address()  # to which Ray turns what workers are told of loopback
        self.token = secrets.token_hex(32)
        self.environment = {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "HOME": str(folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_ADDRESS": f"{self.host}:{self._port}",
        }
        ports = [f"--port={self._port}", f"--dashboard-port={self.dashboard_port}"]
        ports.append(f"--ray-client-server-port={client_port}")
        if grows_to:
            growth = write_growth(folder / "growth.json", self.environment["RAY_ADDRESS"], grows_to)
            ports.append(f"--autoscaling-config={growth}")
            self.environment |= ENVIRONMENT
        self._start("--head", "--num-cpus=0", f"--temp-dir={folder}/ray", *ports, agent=self.agent_port)
        wait_until(lambda: self.get(self.dashboard_port, "/api/gcs_healthz") == 200, "no dashboard")

    @property
    def dashboard(self) -> str:
        """Where jobs and applications are handed in."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def add_worker(self, cpus: int) -> None:
        """One more node; returns when it has joined."""
        (agent,) = find_ports(1)
        self._start(f"--num-cpus={cpus}", f"--address={self.host}:{self._port}", agent=agent)

    def get(self, port: int, path: str, host: str = "127.0.0.1") -> int | None:
        """The status of an answer to somebody without the token; None where nobody answers."""
        try:
            return int(httpx2.get(f"http://{host}:{port}{path}", timeout=20).status_code)
        except httpx2.HTTPError:
            return None

    def run(self, *command: str, path: Path = BIN) -> str:
        """What a command says that ends well, run as in a container of the cluster; `path` is looked in first."""
        environment = self.environment | {"PATH": f"{path}:{self.environment['PATH']}"}
        ended = subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=240, check=False
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def replace(self, program: str, script: str) -> None:
        """Put a script into the folder's `bin`, under a program's name."""
        (self.folder / "bin").mkdir(exist_ok=True)
        (self.folder / "bin" / program).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / "bin" / program).chmod(0o700)

    def list_raylets(self) -> list[psutil.Process]:
        """Ray's own process of each node."""
        return self._list_named("raylet")

    def kill_head(self) -> None:
        """End the head's control store and its raylet, the first one, as a crash would."""
        stores = self._list_named("gcs_server")
        raylets = sorted(self.list_raylets(), key=lambda process: process.create_time())
        for process in [*stores, raylets[0]]:
            process.send_signal(signal.SIGKILL)

    def kill(self) -> None:
        """End every process of the cluster."""
        kill_processes("RAY_AUTH_TOKEN", self.token)

    def _list_named(self, name: str) -> list[psutil.Process]:
        return [process for process in list_processes("RAY_AUTH_TOKEN", self.token) if process.name() == name]

    def _start(self, *arguments: str, agent: int) -> None:
        address = [f"--node-ip-address={self.host}", f"--dashboard-agent-listen-port={agent}"]
        self.run("ray", "start", *NODE, *address, *arguments)
        wait_until(lambda: self.get(agent, "/api/healthz", self.host) == 200, f"no node at {agent}")


@contextlib.contextmanager
def running_cluster(grows_to: int = 0) -> Iterator[RayCluster]:
    """A head in a folder of its own, with a short path as sockets want; nothing of its cluster outlives it."""
    with tempfile.TemporaryDirectory(prefix="t5enc-", dir="/tmp") as folder:
        cluster = RayCluster(Path(folder), grows_to)
        try:
            yield cluster
        finally:
            cluster.kill()
