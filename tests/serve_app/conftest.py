"""A real service for the whole session: `t5enc serve` in a process of its own, as people run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serve_app.haproxy import find_port

KEY = "test-key-0123456789abcdef"
MAX_BODY_BYTES = 200_000
BODY_SECONDS = 2.0
SETTINGS = f"max_body_bytes: {MAX_BODY_BYTES}\nbody_seconds: {BODY_SECONDS}\nmax_length: 64\n"


class Service:
    """`t5enc serve` with a tiny model; `output` is what it has printed."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Starts it, and returns when it says that it listens."""
        self.port = find_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers = {"Authorization": f"Bearer {KEY}"}
        self.output: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "t5enc", "serve", *options, *self._settings(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        )
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._ready.wait()
        if self._process.poll() is not None:
            pytest.fail("the service ended before it listened:\n" + "".join(self.output))

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
        return psutil.Process(self._process.pid).children(recursive=True)

    def stop(self) -> int:
        """Ask it to end, wait for that, and give its exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=120)
        self._reader.join()
        return code

    def _settings(self, folder: Path) -> list[str]:
        (folder / "service.yaml").write_text(SETTINGS)
        return ["--model", "builtin:tiny", "--port", str(self.port), "--config", str(folder / "service.yaml")]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.output.append(line)
                if line.startswith("listening on"):
                    self._ready.set()
        self._process.wait()
        self._ready.set()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service that the tests of a session share, with a key."""
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    folder = tmp_path_factory.mktemp("service")
    (folder / "keys").write_text(f"# of the tests\n{KEY}\n")
    started = Service(folder, "--keys-file", str(folder / "keys"))
    yield started
    started.stop()


@pytest.fixture
def start_service(tmp_path: Path) -> Callable[[], Service]:
    """Start a service of one's own, to be stopped by the test."""
    return lambda: Service(tmp_path)
