"""Seconds and memory that it takes to load checkpoints of a gigabyte, in float32 and in bfloat16, t5enc beside others.

Every load runs in a process of its own, which has imported everything first and is watched from here. RssAnon is
memory that the system cannot take back; a mapped file, as transformers leaves its weights, does not count, nor has
it been read then. So t5enc, which reads and rearranges every weight, is measured against transformers with one copy
of every weight. What `t5enc convert` wrote ("converted") is mapped like transformers' weights, and is measured against
transformers as it is; and with a copy of every weight against tensorizer, which reads its own format whole.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.conditions.corpus import BFLOAT16_SHAPES, make_checkpoint, make_parser, quieten
from benchmarks.conditions.machine import Machine, judge, publish
from benchmarks.encoders.loaders import (
    COPIED,
    FLOAT32_LOADERS,
    LOADERS,
    NEEDED,
    find_dtype,
    make_converted,
    make_serialized,
)

MEMORY_TARGET = 1.3
TIME_TARGET = 1.3
POLL_SECONDS = 0.002


@dataclass(slots=True)
class Load:
    """Loads of one kind: seconds of each, and the most memory, before and meanwhile."""

    name: str
    shape: str
    seconds: list[float] = field(default_factory=list)
    bytes_before: int = 0
    bytes_peak: int = 0

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def dtype(self) -> str:
        """What the checkpoint is stored and loaded in."""
        return str(find_dtype(self.shape)).removeprefix("torch.")


def list_loads(*, quick: bool) -> list[Load]:
    """Every loader that is installed, for each of the two checkpoints that it is compared on.

    Packing is left to float32: many CPUs have no packed products in bfloat16.
    """
    wide, narrow = ("smoke", "smoke-bf16") if quick else ("gigabyte", "gigabyte-bf16")
    installed = [name for name in LOADERS if name not in NEEDED or importlib.util.find_spec(NEEDED[name])]
    loads = [Load(name, wide) for name in FLOAT32_LOADERS]
    return loads + [Load(name, narrow) for name in installed if name != "t5enc, packed"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Load in turn, and print; with `--child` be one of the processes that load."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is loaded (default 5)")
    parser.add_argument("--child", nargs=2, metavar=("LOADER", "SHAPE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    quieten()
    if options.child:
        _be_child(*options.child)
        return
    machine = Machine()
    loads = list_loads(quick=options.quick)
    _prepare(loads)
    for load in _take_turns(loads, 1 if options.quick else options.rounds):
        measure(load, options.threads)
    rows = summarize(loads)
    publish(make_table(rows), machine, {"benchmark": "load", "rows": rows}, options)


def _prepare(loads: Sequence[Load]) -> None:
    """Make every file before anything is measured."""
    for load in loads:
        make_checkpoint(load.shape)
        if "converted" in load.name:
            make_converted(load.shape)
        elif "tensorizer" in load.name:
            make_serialized(load.shape)


def _take_turns(loads: Sequence[Load], rounds: int) -> Iterator[Load]:
    for index in range(rounds):
        yield from (loads[(index + place) % len(loads)] for place in range(len(loads)))


def measure(load: Load, threads: int) -> None:
    """One load in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load", "--threads", str(threads), "--child", load.name, load.shape]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        _check(child.stdout.readline(), load)
        load.bytes_before = max(load.bytes_before, read_anonymous(child.pid))
        print("go", file=child.stdin, flush=True)
        while not select.select([child.stdout], [], [], POLL_SECONDS)[0]:
            load.bytes_peak = max(load.bytes_peak, read_anonymous(child.pid))
        load.seconds.append(float(_check(child.stdout.readline(), load)))
        load.bytes_peak = max(load.bytes_peak, read_anonymous(child.pid))


def _check(line: str, load: Load) -> str:
    if not line:
        raise SystemExit(f"{load.name}: its process ended before it had loaded; its message is above")
    return line


def read_anonymous(process: int) -> int:
    """Bytes of RssAnon of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def _be_child(loader: str, shape: str) -> None:
    """Import, wait, load, say how long it took, and stay until the other side has looked."""
    import transformers  # noqa: F401

    import t5enc.checkpoint.convert  # noqa: F401

    load_model = LOADERS[loader]
    load_model("smoke-bf16" if shape in BFLOAT16_SHAPES else "smoke")
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    model = load_model(shape)
    print(time.perf_counter() - started, flush=True)
    sys.stdin.readline()
    del model


def summarize(loads: Sequence[Load]) -> list[dict[str, Any]]:
    """A row of figures for each kind of load."""
    copies = {load.shape: load.median for load in loads if load.name == COPIED}
    sizes = {shape: (make_checkpoint(shape) / "model.safetensors").stat().st_size for shape in copies}
    return [
        {
            "name": load.name,
            "dtype": load.dtype,
            "model_bytes": sizes[load.shape],
            "seconds": load.seconds,
            "median": load.median,
            "to_copied": load.median / copies[load.shape],
            "bytes_before": load.bytes_before,
            "bytes_peak": load.bytes_peak,
            "to_model": load.bytes_peak / sizes[load.shape],
        }
        for load in loads
    ]


def make_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as they are printed."""
    sizes = {row["dtype"]: f"{row['model_bytes'] / 1e6:,.0f} MB in {row['dtype']}" for row in rows}
    table = Table(title=f"models of {' and '.join(sizes.values())}", title_justify="left")
    for column in ("dtype", "loader", "median s", "to a copy", "target", "MB before", "peak MB", "to model", "target"):
        table.add_column(column, justify="left" if column in ("dtype", "loader", "target") else "right")
    for row in rows:
        is_ours = row["name"].startswith("t5enc")
        table.add_row(
            row["dtype"],
            row["name"],
            f"{row['median']:.3f}",
            f"{row['to_copied']:.2f}",
            judge(row["to_copied"], TIME_TARGET, at_most=True) if is_ours else "",
            f"{row['bytes_before'] / 1e6:,.0f}",
            f"{row['bytes_peak'] / 1e6:,.0f}",
            f"{row['to_model']:.2f}",
            judge(row["to_model"], MEMORY_TARGET, at_most=True) if is_ours else "",
        )
    return table


if __name__ == "__main__":
    main()
