"""A real service: `t5enc serve` in a process of its own, as people run it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from serve_app.deploy.haproxy import find_port

KEY = "test-key-0123456789abcdef"
MAX_BODY_BYTES = 200_000
BODY_SECONDS = 2.0
HEAD_SECONDS = 2.0
SETTINGS = (
    f"max_body_bytes: {MAX_BODY_BYTES}\nbody_seconds: {BODY_SECONDS}\nhead_seconds: {HEAD_SECONDS}\nmax_length: 64\n"
)
# Ray's own keys, which keep strangers out of its ports; without the variables Ray would write one into the home folder.
RAY_KEY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ray-key-of-the-tests-0123456789abcdef"}
# What another shell needs to join the Ray of `t5enc serve`.
JOINING = RAY_KEY | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


REPLICA = "ray::ServeReplica:default:t5enc"


class Running:
    """A command that runs; `output` is what it has printed."""

    def __init__(self, command: Sequence[str], ready: str, environment: Mapping[str, str]) -> None:
        """Starts it, and returns when a line that it prints has `ready` in it."""
        self.output: list[str] = []
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
        )
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(ready,))
        self._reader.start()
        self._is_ready.wait(timeout=120)
        if not any(ready in line for line in self.output):
            if self._process.poll() is None:
                self.stop()
            pytest.fail(f"{' '.join(command)} was not ready before it ended, or in time:\n" + "".join(self.output))

    def processes(self) -> list[psutil.Process]:
        """Its own process, and all below: Ray, Serve, the replicas."""
        own = psutil.Process(self._process.pid)
        return [own, *own.children(recursive=True)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end if it has not, wait for that, and give its exit code."""
        below = self.processes() if self._process.poll() is None else []
        self._process.send_signal(number)
        try:
            return self._process.wait(timeout=120)
        finally:
            for process in below:  # what is left holds ports and cores that other tests need
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._reader.join()

    def _read(self, ready: str) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.output.append(line)
                if ready in line:
                    self._is_ready.set()
        self._process.wait()
        self._is_ready.set()


class Service:
    """`t5enc serve` with a tiny model; `output` is what it has printed."""

    def __init__(
        self, folder: Path, *options: str, settings: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts it, and returns when it says that it listens; `settings` are lines of its YAML file."""
        self.port = find_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers = {"Authorization": f"Bearer {KEY}"}
        command = [sys.executable, "-m", "t5enc", "serve", *options, *self._settings(folder, settings)]
        self._running = Running(command, "listening on", RAY_KEY | (environment or {}))
        self.output = self._running.output

    @property
    def ray_address(self) -> str:
        """The Ray that it has started."""
        return next(line for line in self.output if line.startswith("ray at ")).split()[2].rstrip(",")

    @property
    def metrics_url(self) -> str:
        """Where Ray shows what its processes on this machine count."""
        return next(line for line in self.output if line.startswith("ray at ")).split()[5].rstrip(",")

    def children(self) -> list[psutil.Process]:
        """All processes below its own: Ray, Serve, the replicas."""
        return self._running.processes()[1:]

    def replicas(self) -> list[psutil.Process]:
        """The processes that hold the model of its application, which is not the only one in its Serve."""
        return [child for child in self.children() if name_actor(child) == REPLICA]

    def join(self, *command: str) -> None:
        """Run a command in its Ray, as from another shell, to its end."""
        ended = subprocess.run(
            command, check=False, env=os.environ | JOINING, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def stop(self) -> int:
        """Ask it to end, wait for that, and give its exit code."""
        return self._running.stop()

    def _settings(self, folder: Path, more: str) -> list[str]:
        (folder / "service.yaml").write_text(SETTINGS + more)
        return ["--model", "builtin:tiny", "--port", str(self.port), "--config", str(folder / "service.yaml")]


def name_actor(process: psutil.Process) -> str:
    """A process's name without what Ray puts behind it: the method that it is at."""
    return process.name().partition(".")[0]
