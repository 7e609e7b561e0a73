"""A real Prometheus on loopback that scrapes one address every second, and what it answers."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from serve_app.deploy.haproxy import find_ports
from tests.cluster.patience import wait_until

Series = list[tuple[dict[str, str], list[float]]]


def find_program(name: str) -> str | None:
    """Path of `prometheus` or `promtool`, if Debian's package is installed."""
    return shutil.which(name)


class Prometheus:
    """Answers of the one that runs."""

    def __init__(self, url: str) -> None:
        self.client = httpx2.Client(base_url=f"{url}/api/v1", timeout=60)
        self._began = time.time()

    def ask(self, expression: str) -> Series:
        """Every series that an expression had since the start, with those of its values that are numbers."""
        window = {"start": self._began, "end": time.time(), "step": "1"}
        found: dict[str, Any] = self.client.post("/query_range", data={"query": expression} | window).json()
        assert found["status"] == "success", found
        return [
            (series["metric"], [float(value) for _, value in series["values"] if math.isfinite(float(value))])
            for series in found["data"]["result"]
        ]

    def count_scrapes(self) -> int:
        """Successful scrapes up to now."""
        found = self.ask("sum_over_time(up[1h])")
        return int(found[0][1][-1]) if found and found[0][1] else 0

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return self.client.get("/status/runtimeinfo").status_code == 200
        except httpx2.TransportError:
            return False


@contextmanager
def run_prometheus(program: str, folder: Path, target: str) -> Iterator[Prometheus]:
    """One that scrapes `target`, and that keeps its data in `folder`."""
    (port,) = find_ports(1)
    jobs = [{"job_name": "ray", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}]
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"scrape_configs": jobs}))
    options = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            asked = Prometheus(f"http://127.0.0.1:{port}")
            with asked.client:
                wait_until(asked.is_ready, "Prometheus does not answer")
                yield asked
        finally:
            process.terminate()
