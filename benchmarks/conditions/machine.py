"""The machine that figures come from: what it is, whether it is quiet, and where figures go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PACKAGES = ("t5enc", "torch", "transformers", "nai-t5-wrapper", "ray", "pyarrow")
LIBRARIES = {"mkl": r"Math Kernel Library Version ([\d.]+)", "onednn": r"MKL-DNN v([\d.]+)"}
# What figures may be quoted with: load average before a run, and cores that others use meanwhile.
BUSY_BEFORE = 0.5
BUSY_MEANWHILE = 0.1


class Machine:
    """What a benchmark runs on, and how busy it was with other things since this was made."""

    def __init__(self, *, counts_others: bool = True) -> None:
        """Without `counts_others` for what starts processes that are nobody's children, as Ray's are."""
        self.counts_others = counts_others
        self.load_before = os.getloadavg()
        self._started = time.perf_counter()
        self._others = _other_seconds()

    def describe(self, device: str = "cpu") -> dict[str, Any]:
        """Hardware, versions and load, for the JSON and the head of the output."""
        return {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
            "threads": torch.get_num_threads(),
            "versions": _read_versions(),
            "environment": {k: v for k, v in os.environ.items() if k.startswith(("MKL_", "OMP_", "ONEDNN_"))},
            "loadavg_before": self.load_before,
            "loadavg_after": os.getloadavg(),
            "cores_used_by_others": self._cores_of_others() if self.counts_others else None,
        }

    def _cores_of_others(self) -> float:
        used = _other_seconds() - self._others
        return round(max(0.0, used / (time.perf_counter() - self._started)), 2)


def find_noise(described: dict[str, Any]) -> list[str]:
    """Why figures from this machine may be wrong."""
    problems = []
    before, others = described["loadavg_before"][0], described["cores_used_by_others"]
    if before > BUSY_BEFORE:
        problems.append(f"the load average was {before:.2f} before the run")
    if others is not None and others > BUSY_MEANWHILE:
        problems.append(f"others used {others:.2f} cores during the run")
    return problems


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", path.read_text(), re.M) if path.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def _read_versions() -> dict[str, str]:
    built = torch.__config__.show()
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    for name, pattern in LIBRARIES.items():
        found = re.search(pattern, built)
        versions[name] = found[1] if found else "none"
    return versions


def _other_seconds() -> float:
    """CPU seconds of this machine since it started, without those of this process and its children."""
    path = Path("/proc/stat")
    if not path.is_file():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, path.read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def publish(table: Table, machine: Machine, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the machine, the table and what makes it doubtful; write everything to a JSON file if asked."""
    described = machine.describe(getattr(options, "device", "cpu"))
    print_figures(table, described)
    if options.quick:
        Console().print("a smoke run: these figures mean nothing", style="bold yellow")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": described} | figures, indent=2) + "\n", encoding="utf-8")


def print_figures(table: Table, described: dict[str, Any]) -> None:
    """The machine, a table, and why it may be wrong."""
    console = Console(highlight=False)
    console.width = max(console.width, 132)
    console.print("{cpu}, {cores} cores; {device}, {threads} threads".format_map(described))
    console.print(", ".join(f"{name} {number}" for name, number in described["versions"].items()))
    console.print(table)
    before, after = described["loadavg_before"][0], described["loadavg_after"][0]
    console.print(f"load average {before:.2f} before, {after:.2f} after")
    for problem in find_noise(described):
        console.print(f"not a quiet machine: {problem}", style="bold yellow")


def judge(value: float, target: float, *, at_most: bool = False) -> str:
    """A target, and whether it is met."""
    is_met = value <= target if at_most else value >= target
    return f"{'<=' if at_most else '>='} {target:g}: {'met' if is_met else 'not met'}"
