"""How far the pipeline scales: 1, 2, 4 and 8 actors whose encoder waits a fixed time per token, and 1,000 on paper.

Each number of actors runs in a driver of its own, which is interrupted after a window of steady work. Efficiency is
useful tokens a second of each actor beside those of one actor alone. What the driver costs is read off the same
windows: its CPU seconds over time and units, by least squares. The ledger, one process for all actors, is measured by
itself. From these the second table works out how many GPUs each part can serve: the smallest number is where it breaks.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.conditions.corpus import make_parser
from benchmarks.conditions.machine import Machine, judge, publish
from benchmarks.encoders.stand_in import TOKENS_PER_SECOND
from benchmarks.memory import read_peak
from benchmarks.paper.frontier import Card, describe_limits, find_limits
from t5enc.checkpoint.builtin import sample_captions

if TYPE_CHECKING:
    from pipelines.progress.ledger import Progress
    from pipelines.run.state import RunState

ACTORS = (1, 2, 4, 8)
WINDOW_SECONDS = 60.0
# From the moment that the last actor is ready.
SETTLING_SECONDS = 5.0
# About half a second of the stand-in, as a unit of T5-XXL is on an H100.
ROWS_PER_SHARD = 20
ROWS_A_FILE = 10_000
WANTED = 0.95
LEDGER_UNITS = 3000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every number of actors, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=WINDOW_SECONDS, help="of steady work (default 60)")
    parser.add_argument("--actors", type=int, nargs="+", default=ACTORS, help="numbers of actors (default 1 2 4 8)")
    parser.add_argument("--run", nargs=2, metavar=("ACTORS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run is not None:
        run_window(int(options.run[0]), Path(options.run[1]), options.seconds)
        return
    if options.quick:
        options.actors, options.seconds = (1, 2), 3.0
    machine = Machine(counts_others=False)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options)
    driver, ledger = fit_driver(rows), measure_ledger(20 if options.quick else LEDGER_UNITS)
    limits = find_limits(Card(), driver, ledger)
    figures = {"benchmark": "scaling", "rows": rows, "driver": driver, "ledger": ledger, "limits": limits}
    publish(make_table(rows, driver), machine, figures, options)
    Console(width=132, highlight=False).print(describe_limits(Card(), limits))


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each number of actors."""
    seconds = options.seconds + 4 * SETTLING_SECONDS
    count = int(max(options.actors) * TOKENS_PER_SECOND * seconds / 5)  # no caption has fewer than five tokens
    write_captions(folder / "in", count)
    rows = []
    for actors in options.actors:
        place = folder / str(actors)
        command = [sys.executable, "-m", "benchmarks.scaling", "--seconds", str(options.seconds)]
        subprocess.run([*command, "--run", str(actors), str(place)], check=True)
        rows.append(json.loads(place.with_suffix(".json").read_text()))
    for row in rows:
        row["efficiency"] = row["rate"] / row["actors"] / (rows[0]["rate"] / rows[0]["actors"])
    return rows


def write_captions(folder: Path, count: int) -> None:
    """The built-in captions over and over, each with its number."""
    folder.mkdir()
    texts = sample_captions()
    for part in range(-(-count // ROWS_A_FILE)):
        rows = range(part * ROWS_A_FILE, min(count, (part + 1) * ROWS_A_FILE))
        table = pa.table({"caption": [f"{texts[row % len(texts)]} {row}" for row in rows]})
        pq.write_table(table, folder / f"{part:04d}.parquet", row_group_size=1000)


def run_window(actors: int, folder: Path, seconds: float) -> None:
    """A driver in this process, until its window is over."""
    import ray

    from benchmarks.encoders.stand_in import WaitingWorker
    from pipelines import EncodeJob, encode_parquet
    from pipelines import encode as encode_module

    encode_module.SpanWorker = WaitingWorker  # type: ignore[attr-defined]
    window = Window(actors, seconds)
    job = EncodeJob(
        inputs=[str(folder.parent / "in")],
        output=str(folder),
        model="builtin:tiny",
        rows_per_shard=ROWS_PER_SHARD,
        actors=actors,
        cpus_per_actor=1,
    )
    ray.init(address="local", num_cpus=actors + 1, include_dashboard=False, log_to_driver=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs have it ignored
    try:
        encode_parquet(job, window)
    except KeyboardInterrupt:
        folder.with_suffix(".json").write_text(json.dumps(window.figures))
        return
    raise SystemExit(f"scaling: expected work for {seconds:.0f} s of {actors} actors, got less")


class Window:
    """Follows a run; interrupts it when it has seen steady work for long enough."""

    def __init__(self, actors: int, seconds: float) -> None:
        self.actors = actors
        self.seconds = seconds
        self.ready: float | None = None
        self.before: dict[str, float] | None = None
        self.figures: dict[str, float] = {}

    def __call__(self, progress: Progress, run: RunState) -> None:
        """What the watch of a run calls once a second."""
        now = self._measure(progress)
        if self.ready is None and progress.actors_ready >= self.actors:
            self.ready = now["seconds"]
        if self.ready is None or now["seconds"] < self.ready + SETTLING_SECONDS or self.figures:
            return
        if self.before is None:
            self.before = now
        elif now["seconds"] >= self.before["seconds"] + self.seconds:
            gains = {name: value - self.before[name] for name, value in now.items()}
            peak = read_peak(os.getpid())
            self.figures = gains | {"actors": self.actors, "rate": gains["tokens"] / gains["seconds"], "peak": peak}
            os.kill(os.getpid(), signal.SIGINT)

    def _measure(self, progress: Progress) -> dict[str, float]:
        """The clock is that of the last unit, so that a window holds whole units."""
        return {
            "seconds": progress.ended_at,
            "cpu_seconds": time.process_time(),
            "tokens": progress.counts.tokens,
            "captions": progress.counts.captions,
            "units": progress.cost.units,
        }


def fit_driver(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The driver's CPU: seconds a second whatever it does, and milliseconds a unit."""
    parts = np.array([[row["seconds"], row["units"]] for row in rows])
    found = np.linalg.lstsq(parts, np.array([row["cpu_seconds"] for row in rows]), rcond=None)[0]
    idle, unit = np.maximum(found, 1e-6)  # the noise of a smoke run can be larger than both
    captions, units = (sum(row[name] for row in rows) for name in ("captions", "units"))
    return {
        "idle": float(idle),
        "ms_per_unit": 1000 * float(unit),
        "cpu_seconds_per_million_captions": 1e6 * float(unit) * units / captions,
        "bytes_peak": max(row["peak"] for row in rows),
    }


def measure_ledger(units: int) -> dict[str, float]:
    """CPU of the ledger's process for the calls that a unit makes."""
    import ray

    from pipelines.commit.counts import Cost, Counts
    from pipelines.progress.findings import Findings
    from pipelines.progress.ledger import Ledger
    from pipelines.progress.places import Place

    class Measured(Ledger):
        def cpu_seconds(self) -> float:
            return time.process_time()

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        ledger = ray.remote(Measured).remote("job", 1)
        ledger.starting.remote(Place("actor", "node"))
        ledger.started.remote(Place("actor", "node"), {"device": "cpu"})
        before = ray.get(ledger.cpu_seconds.remote())
        counts, cost = Counts(captions=20, tokens=500), Cost(useful_tokens=500, waiting_seconds=0.1)
        for number in range(units):
            ledger.begin.remote(str(number), "node")
            answer = ledger.end.remote(str(number), "actor", counts, cost, Findings(), "node")
        ray.get(answer)
        seconds = ray.get(ledger.cpu_seconds.remote()) - before
    finally:
        ray.shutdown()
    return {"units": units, "ms_per_unit": 1000 * seconds / units}


def make_table(rows: Sequence[dict[str, Any]], driver: dict[str, float]) -> Table:
    """A row for each number of actors, and what the driver cost."""
    table = Table(title="scaling, actors that wait 1 ms a token", title_justify="left")
    for name in ("actors", "useful tokens/s", "to one actor", "wanted", "driver CPU", "driver's peak"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [
            f"{row['actors']}",
            f"{row['rate']:,.0f}",
            f"{row['efficiency']:.3f}",
            judge(row["efficiency"], WANTED),
        ]
        table.add_row(*cells, f"{row['cpu_seconds'] / row['seconds']:.3f} cores", f"{row['peak'] / 1e6:,.0f} MB")
    table.caption = (
        "driver: {idle:.3f} cores, and {ms_per_unit:.2f} ms a unit; "
        "{cpu_seconds_per_million_captions:,.0f} CPU seconds a million captions of such units"
    ).format_map(driver)
    return table


if __name__ == "__main__":
    main()
