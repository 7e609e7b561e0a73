"""What the driver of a batch job costs: seconds, CPU and memory, for very many files and for very many units.

Two inputs are made of links to one small file: 100,000 files of few rows, and a billion rows in 1,000 files that make
a million units. Each step is measured in a process of its own, whose VmHWM is then its own: listing and footers;
beginning a new job, and one of which half is committed; dispatching spans on a real Ray to actors that do nothing but
make up records; and the end, with a manifest of every unit. Shards are links to one file, which nobody opens: the log
knows them all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from rich.table import Table

from benchmarks.conditions.corpus import make_parser
from benchmarks.conditions.machine import Machine, publish
from benchmarks.conditions.workloads import QUICK, SHARD_BYTES, WORKLOADS, Workload, lay_out, link_files
from benchmarks.memory import read_peak
from t5enc.storage.layout import MANIFEST

if TYPE_CHECKING:
    from pipelines.plan.units import Unit
    from pipelines.run.state import RunState

NOTED = 10_000
STEPS = ("idle", "list", "begin", "resume", "dispatch", "conclude")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every step of both inputs, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of dispatching, at most (default 60)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--workloads", nargs="+", choices=[workload.name for workload in WORKLOADS])
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step is not None:
        print(json.dumps(measure_step(options.step[0], find_workload(options), Path(options.step[1]), options.seconds)))
        return
    machine = Machine(counts_others=False)
    rows = [row for workload in find_workloads(options) for row in measure(workload, options)]
    publish(make_table(rows), machine, {"benchmark": "driver", "rows": rows}, options)


def find_workloads(options: argparse.Namespace) -> list[Workload]:
    """Those that are asked for."""
    return [one for one in (QUICK if options.quick else WORKLOADS) if one.name in (options.workloads or (one.name,))]


def find_workload(options: argparse.Namespace) -> Workload:
    """The only one that is asked for."""
    (workload,) = find_workloads(options)
    return workload


def measure(workload: Workload, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Lay out an input, and run each step in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder), workload)
        for step in options.steps:
            command = [sys.executable, "-m", "benchmarks.driver", "--workloads", workload.name]
            command += ["--step", step, folder, "--seconds", str(options.seconds), *["--quick"] * options.quick]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            yield {"workload": workload.name, "step": step} | json.loads(done.stdout.splitlines()[-1])


def measure_step(step: str, workload: Workload, folder: Path, seconds: float) -> dict[str, Any]:
    """Figures of one step, in this process."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    steps: dict[str, Callable[..., dict[str, Any]]] = {
        "idle": lambda *_: {},
        "list": list_inputs,
        "begin": begin_job,
        "resume": resume_job,
        "dispatch": dispatch_spans,
        "conclude": conclude_job,
    }
    figures = steps[step](workload, folder, seconds)
    return figures | {"bytes_peak": read_peak(os.getpid())}


@contextmanager
def timed(figures: dict[str, Any]) -> Iterator[None]:
    """Wall and CPU seconds of what is done inside."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    figures |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def list_inputs(workload: Workload, folder: Path, _: float) -> dict[str, Any]:
    """List the files, read every footer, and freeze the job."""
    from pipelines.run.resolved_job import resolve_job

    figures: dict[str, Any] = {"count": workload.files}
    with timed(figures):
        resolve_job(make_job(workload, folder), torch.device("cpu"))
    return figures


def make_job(workload: Workload, folder: Path) -> Any:
    """The job, with the model that comes with t5enc."""
    from pipelines.job import EncodeJob

    return EncodeJob(
        inputs=[str(folder / "in")],
        output=str(folder / "out"),
        model="builtin:tiny",
        rows_per_shard=workload.rows_per_shard,
    )


def prepare_job(workload: Workload, folder: Path, share: float = 0.0) -> tuple[Any, Any]:
    """A job with nothing left open, and the store of its output, where a share of its units is committed."""
    from pipelines.run.resolved_job import resolve_job
    from pipelines.stores.store import open_store

    resolved, store = resolve_job(make_job(workload, folder), torch.device("cpu")), open_store(str(folder / "out"))
    if share:
        commit_units(resolved, store, folder, share)
    return resolved, store


def begin_job(workload: Workload, folder: Path, _: float, share: float = 0.0) -> dict[str, Any]:
    """Find out what is committed, where a share of all units is."""
    from pipelines.commit.protocol import begin_commit

    resolved, store = prepare_job(workload, folder, share)
    figures: dict[str, Any] = {}
    with timed(figures):
        commit = begin_commit(store, resolved.frozen, resolved.files)
    return figures | {"count": len(commit.units), "left": len(commit.left)}


def resume_job(workload: Workload, folder: Path, seconds: float) -> dict[str, Any]:
    """The same where half is committed."""
    return begin_job(workload, folder, seconds, share=0.5)


def conclude_job(workload: Workload, folder: Path, _: float) -> dict[str, Any]:
    """Write the manifest of everything."""
    from pipelines.commit.protocol import begin_commit, conclude_commit

    resolved, store = prepare_job(workload, folder, share=1.0)
    commit = begin_commit(store, resolved.frozen, resolved.files)
    figures: dict[str, Any] = {"count": len(commit.units)}
    with timed(figures):
        conclude_commit(store, commit)
    return figures | {"bytes_manifest": (folder / "out" / MANIFEST).stat().st_size}


def commit_units(resolved: Any, store: Any, folder: Path, share: float) -> None:
    """Shards of the first units of a plan, as earlier runs would have left and noted them."""
    from pipelines.commit.log import append_log
    from pipelines.commit.protocol import begin_commit

    units = begin_commit(store, resolved.frozen, resolved.files).units
    records = map(make_record, islice(iter(units.values()), round(share * len(units))))
    while noted := list(islice(records, NOTED)):
        link_files(folder / "shard", (folder / "out" / record.name for record in noted))
        append_log(store, noted)


def make_record(unit: Unit) -> Any:
    """What could be known of a unit's shard."""
    from pipelines.commit.counts import Counts
    from pipelines.commit.records import UnitRecord

    return UnitRecord(
        name=unit.name,
        source=unit.source,
        first_row=unit.first_row,
        content=f"{unit.id:0<64}",
        counts=Counts(
            **dict.fromkeys(("input_rows", "captions", "encoded"), unit.num_rows),
            tokens=4 * unit.num_rows,
            longest=4,
            size=SHARD_BYTES,
        ),
    )


def dispatch_spans(workload: Workload, folder: Path, seconds: float) -> dict[str, Any]:
    """Have an actor that does nothing make up records of every span, for so long."""
    import ray

    from pipelines.nodes.cluster import connect
    from pipelines.nodes.local_ray import start_local
    from pipelines.run import dispatch
    from pipelines.run.state import begin_run

    job = make_job(workload, folder)
    start_local(num_cpus=2)
    run = begin_run(job, torch.device("cpu"))
    dispatch.EncoderActor = Idler  # type: ignore[misc, assignment]
    with connect(job) as cluster:
        clerk, options = make_clerk(run), run.resolved.options
        found = dispatch.map_tasks(run.commit.records, cluster, options, clerk, units_per_span=run.units_per_span)
        figures = take_results(run, found, seconds)
    ray.shutdown()
    return figures


def take_results(run: RunState, found: Iterator[Any], seconds: float) -> dict[str, Any]:
    """Note units as they come; seconds and CPU until the first come, and for each dispatch after that."""
    first: dict[str, Any] = {}
    with timed(first):
        note_units(run, next(found))
    rest: dict[str, Any] = {}
    with timed(rest):
        end = time.perf_counter() + seconds
        spans = sum(1 for results in takewhile(lambda _: time.perf_counter() < end, found) if note_units(run, results))
    return first | {
        "count": len(run.commit.records),
        "spans": spans + 1,
        "ms_a_span": 1000 * rest["seconds"] / max(1, spans),
        "cpu_ms_a_span": 1000 * rest["cpu_seconds"] / max(1, spans),
    }


def note_units(run: RunState, results: Sequence[Any]) -> bool:
    """What the driver does with what comes back."""
    for result in results:
        run.commit.records[result.record.name] = result.record
    return True


class Idler:
    """An actor without a model."""

    def __init__(self, options: Any, work: Any) -> None:
        self.work = work

    def __call__(self, batch: pa.Table) -> pa.Table:
        """What an EncoderActor does with it."""
        return self.work(self, batch)


def make_clerk(run: RunState) -> Any:
    """A worker that encodes nothing, and makes up a record of each unit."""
    from pipelines.actors.tasks import SpanResult, SpanTask
    from pipelines.actors.worker import SpanWorker

    class Clerk(SpanWorker):
        def run(self, actor: Any, tasks: Sequence[SpanTask]) -> Iterator[SpanResult]:
            for task in tasks:
                units = task.span.units(fingerprint=self.job.fingerprint)
                left = (unit for unit in units if unit.first_row not in task.done)
                yield from (SpanResult(kind="unit", record=make_record(unit)) for unit in left)

    return Clerk(run.commit.frozen, run.job.output, run.resolved.inputs.filesystem, None)


def make_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A row for each step of each input."""
    table = Table(title="the driver of a batch job", title_justify="left")
    for column in ("input", "step", "count", "seconds", "CPU seconds", "peak MB", "ms a dispatch", "CPU ms a dispatch"):
        table.add_column(column, justify="left" if column in ("input", "step") else "right")
    for row in rows:
        figures = [
            (name, row.get(name)) for name in ("seconds", "cpu_seconds", "bytes_peak", "ms_a_span", "cpu_ms_a_span")
        ]
        cells = [
            "" if value is None else f"{value / (1e6 if name == 'bytes_peak' else 1):,.1f}" for name, value in figures
        ]
        table.add_row(row["workload"], row["step"], f"{row.get('count', 0):,}", *cells)
    return table


if __name__ == "__main__":
    main()
