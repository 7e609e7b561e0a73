"""Seconds and memory that it takes to load a checkpoint of 1.16 GB in float32: t5enc beside transformers.

Every load runs in a process of its own, which has imported everything first and is watched from here. RssAnon is
memory that the system cannot take back; a mapped file, as transformers leaves its weights, does not count, nor has
it been read then. So t5enc, which reads and rearranges every weight, is measured against transformers with one copy
of every weight.
"""

from __future__ import annotations

import argparse
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.corpus import make_checkpoint, make_parser, quieten
from benchmarks.machine import Machine, judge, publish

MEMORY_TARGET = 1.3
TIME_TARGET = 1.3
POLL_SECONDS = 0.002
COPIED = "transformers, and a copy of every weight"


@dataclass(slots=True)
class Load:
    """Loads of one kind: seconds of each, and the most memory, before and meanwhile."""

    name: str
    seconds: list[float] = field(default_factory=list)
    bytes_before: int = 0
    bytes_peak: int = 0

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


def load_plain(folder: Path) -> Any:
    """t5enc, weights as they are."""
    return _load_own(folder, pack=False)


def load_packed(folder: Path) -> Any:
    """t5enc as TextEncoder loads on CPUs: linear weights in oneDNN's layout."""
    return _load_own(folder, pack=True)


def _load_own(folder: Path, *, pack: bool) -> Any:
    from t5enc.checkpoint import open_checkpoint
    from t5enc.weights import load_encoder

    checkpoint = open_checkpoint(folder)
    cpu = torch.device("cpu")
    return load_encoder(checkpoint.config, checkpoint.tensors, dtype=torch.float32, device=cpu, pack=pack)


def load_transformers(folder: Path) -> Any:
    """transformers, whose weights stay in the mapped file."""
    from transformers import T5EncoderModel

    return T5EncoderModel.from_pretrained(folder, dtype=torch.float32)


def load_copied(folder: Path) -> Any:
    """transformers, and then every weight read into memory."""
    model = load_transformers(folder)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


LOADERS: dict[str, Callable[[Path], Any]] = {
    "t5enc, packed": load_packed,
    "t5enc": load_plain,
    "transformers": load_transformers,
    COPIED: load_copied,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Load in turn, and print; with `--child` be one of the processes that load."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is loaded (default 5)")
    parser.add_argument("--child", nargs=2, metavar=("LOADER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    quieten()
    if options.child:
        _be_child(options.child[0], Path(options.child[1]))
        return
    machine = Machine()
    folder = make_checkpoint("smoke" if options.quick else "gigabyte")
    loads = [Load(name) for name in LOADERS]
    for load in _take_turns(loads, 1 if options.quick else options.rounds):
        measure(load, folder, options.threads)
    model_bytes = (folder / "model.safetensors").stat().st_size
    rows = summarize(loads, model_bytes)
    figures = {"benchmark": "load", "model_bytes": model_bytes, "rows": rows}
    publish(make_table(rows, model_bytes), machine, figures, options)


def _take_turns(loads: Sequence[Load], rounds: int) -> Iterator[Load]:
    for index in range(rounds):
        yield from (loads[(index + place) % len(loads)] for place in range(len(loads)))


def measure(load: Load, folder: Path, threads: int) -> None:
    """One load in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load", "--threads", str(threads), "--child", load.name, str(folder)]
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


def _be_child(loader: str, folder: Path) -> None:
    """Import, wait, load, say how long it took, and stay until the other side has looked."""
    import transformers  # noqa: F401

    import t5enc.weights  # noqa: F401

    load_model = LOADERS[loader]
    load_model(make_checkpoint("smoke"))
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    model = load_model(folder)
    print(time.perf_counter() - started, flush=True)
    sys.stdin.readline()
    del model


def summarize(loads: Sequence[Load], model_bytes: int) -> list[dict[str, Any]]:
    """A row of figures for each kind of load."""
    yardstick = next(load.median for load in loads if load.name == COPIED)
    return [
        {
            "name": load.name,
            "seconds": load.seconds,
            "median": load.median,
            "to_copied": load.median / yardstick,
            "bytes_before": load.bytes_before,
            "bytes_peak": load.bytes_peak,
            "to_model": load.bytes_peak / model_bytes,
        }
        for load in loads
    ]


def make_table(rows: Sequence[dict[str, Any]], model_bytes: int) -> Table:
    """The rows as they are printed."""
    table = Table(title=f"a model of {model_bytes / 1e6:,.0f} MB", title_justify="left")
    for column in ("loader", "median s", "to a copy", "target", "MB before", "peak MB", "to model", "target"):
        table.add_column(column, justify="left" if column in ("loader", "target") else "right")
    for row in rows:
        is_ours = row["name"].startswith("t5enc")
        table.add_row(
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
