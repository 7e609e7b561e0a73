"""Stored embeddings on their way into padded batches: t5enc, pyarrow, datasets, webdataset and MDS in turn.

Writes an output of ragged float16 rows of 0.8 MB with the pipeline's own writer into a scratch folder, another of as
many rows of which 30 % refer to embeddings that are stored once, and the rows as tars and as MDS. Each pass over the
rows is a process of its own, in rounds: from the page cache, and from the disk, of which the system is told to forget
the files. MB are bytes of embeddings, pads not counted. Then there are what opening, the order of a billion rows,
decoding and a store cost.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.conditions.corpus import make_parser
from benchmarks.conditions.machine import Machine, judge, publish
from benchmarks.readers.meter import warm
from benchmarks.readers.passes import READERS
from benchmarks.readers.written import list_files, write_links, write_referring, write_rows

OURS, ALONE, GROUPS = "t5enc, random", "t5enc, random, one thread", "pyarrow read_row_group, random"
REFERRED = "t5enc, random, 30 % referred"
DATASETS, TARS = "datasets streaming, in order", "webdataset, in order"
MDS = {"MDS, in order": "sequential", "MDS by number, random": "random"}
FOLDERS = {TARS: "tars", REFERRED: "referring"}
# Rows of a pass with the reader that reads a row group a row.
MOST_GROUP_ROWS = 600
ROOM = 1.1
# From the page cache the first rows of a pass are not measured: at most so many, and one for each so many bytes.
WARM_UP_ROWS, WARM_UP_SHARE = 64, 1e7


def main(arguments: Sequence[str] | None = None) -> None:
    """Write, read in turn, and print."""
    options = _parse(arguments)
    machine = Machine()
    with _make_scratch(options) as scratch:
        places = write_all(scratch, options)
        rows = read_all(places, options)
        parts = measure_parts(places, options)
    goals = judge_all(rows, parts)
    figures = {"benchmark": "reading", "bytes": options.bytes, "rows": rows, "parts": parts, "goals": goals}
    publish(make_table(rows, options), machine, figures, options)
    Console(width=132, highlight=False).print(make_goal_table(goals))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=0.5, help="of embeddings (default 0.5)")
    parser.add_argument("--batch", type=int, default=16, help="rows of a batch (default 16)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each reader from the page cache (default 3)")
    parser.add_argument("--cold-rounds", type=int, default=1, help="passes from the disk (default 1)")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="where to write (default: the temporary folder)")
    parser.add_argument("--mds-python", metavar="PYTHON", help="an interpreter with mosaicml-streaming")
    options = parser.parse_args(arguments)
    options.bytes = int((0.03 if options.quick else options.gigabytes) * 1e9)
    if options.quick:
        options.rounds = options.cold_rounds = 1
    return options


@contextmanager
def _make_scratch(options: argparse.Namespace) -> Iterator[Path]:
    """A folder that is removed; SystemExit where there is no room for all copies of the rows."""
    if options.scratch:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="t5enc-reading-", dir=options.scratch) as folder:
        copies = 4 if options.mds_python else 3
        free, wanted = shutil.disk_usage(folder).free, int(copies * options.bytes * ROOM)
        if free < wanted:
            raise SystemExit(f"{folder}: expected room for {wanted / 1e9:.1f} GB, got {free / 1e9:.1f}; see --scratch")
        yield Path(folder)


def write_all(scratch: Path, options: argparse.Namespace) -> dict[str, Path]:
    """The same rows in each form, and an output of very many shards."""
    from t5enc.trainers import export_embeddings

    places = {name: scratch / name for name in ("output", "referring", "tars", "links")}
    _say(f"writing {options.bytes / 1e9:g} GB")
    write_rows(places["output"], options.bytes)
    write_referring(places["referring"], options.bytes)
    export_embeddings("webdataset", places["output"], places["tars"], stem_column="id")
    write_links(places["links"], *((20, 50) if options.quick else (10_000, 1000)))
    if options.mds_python:
        places["mds"] = scratch / "mds"
        subprocess.run(_name_mds(options, "write", places["tars"], places["mds"]), check=True)
    else:
        _say("MDS is left out: give an interpreter with mosaicml-streaming as --mds-python")
    return places


def read_all(places: Mapping[str, Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All readers in turn, round by round: a row each, with the median pass."""
    names = [*READERS, *(MDS if "mds" in places else ())]
    passes: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    warm(path for name in ("output", "referring", "tars", "mds") if name in places for path in list_files(places[name]))
    rounds = [False] * options.rounds + [True] * options.cold_rounds
    for number, is_cold in enumerate(rounds):
        for name in names if not (options.quick and is_cold) else [OURS]:
            _say(f"round {number + 1} of {len(rounds)}, {'from the disk' if is_cold else 'warm'}: {name}")
            passes[name].append({"is_cold": is_cold} | _pass(name, places, number, is_cold, options))
    return [{"name": name, "passes": found} | summarize(found) for name, found in passes.items()]


def _pass(
    name: str, places: Mapping[str, Path], number: int, is_cold: bool, options: argparse.Namespace
) -> dict[str, Any]:
    limit = MOST_GROUP_ROWS if name == GROUPS else sys.maxsize
    skip = 0 if is_cold else min(WARM_UP_ROWS, int(options.bytes // WARM_UP_SHARE))
    if name in MDS:
        order = (places["mds"], MDS[name], options.batch, int(is_cold), limit, skip)
        return _run(_name_mds(options, "read", *order), {})
    folder = places[FOLDERS.get(name, "output")]
    task = {
        "reader": name,
        "folder": str(folder),
        "size": options.batch,
        "is_cold": is_cold,
        "seed": number,
        "limit": limit,
        "skip": skip,
    }
    return _run([sys.executable, "-m", "benchmarks.readers.passes"], task | {"threads": options.threads})


def _name_mds(options: argparse.Namespace, *words: object) -> list[str]:
    return [options.mds_python, str(Path(__file__).parent / "readers" / "mds.py"), *map(str, words)]


def _run(command: Sequence[str], task: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that a process prints last."""
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {done.returncode}\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def summarize(passes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Costs of the middle pass of each kind: CPU from the page cache, seconds from both, bytes from the disk."""
    found: dict[str, float] = {}
    for kind, is_cold in (("warm", False), ("cold", True)):
        chosen = [one for one in passes if one["is_cold"] is is_cold]
        if chosen:
            found[f"{kind}_mb_per_s"] = median(one["bytes"] / one["wall"] / 1e6 for one in chosen)
            found[f"{kind}_mb_per_cpu_s"] = median(one["bytes"] / one["cpu"] / 1e6 for one in chosen)
            found[f"{kind}_cpu_ms_a_row"] = median(one["cpu"] / one["rows"] * 1e3 for one in chosen)
            found[f"{kind}_disk"] = median(one["disk"] / one["bytes"] for one in chosen)
    return found


def measure_parts(places: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """What there is besides passes, a process each."""
    tasks: dict[str, dict[str, Any]] = {
        "open": {"folder": str(places["links"])},
        "order": {"rows": 10**9, "batches": 20 if options.quick else 2000, "size": 256},
        "decode": {"tokens": 64 if options.quick else 4096, "rounds": 2 if options.quick else 9},
        "store": {"folder": str(places["output"]), "rows": 16 if options.quick else 400},
    }
    if not options.quick and options.bytes > 1e9:
        del tasks["store"]  # moto keeps all in memory
    for name in tasks:
        _say(f"measuring: {name}")
    command = [sys.executable, "-m", "benchmarks.readers.parts"]
    return {name: _run([*command, name], task) for name, task in tasks.items()}


def judge_all(rows: Iterable[Mapping[str, Any]], parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was to be shown, and what was found."""
    speed = {row["name"]: row["warm_mb_per_cpu_s"] for row in rows}
    ours, alone = (next(row for row in rows if row["name"] == name) for name in (OURS, ALONE))
    opened, order, decoded = parts["open"], parts["order"], parts["decode"]
    goals = [
        _goal("random rows, one thread, GB a CPU second", speed[ALONE] / 1e3, 3),
        _goal(f"times {GROUPS}", speed[ALONE] / speed[GROUPS], 10),
        _goal(f"times {DATASETS}", speed[ALONE] / speed[DATASETS], 2),
        _goal(f"times {TARS}", speed[ALONE] / speed[TARS], 3),
        *(_goal(f"times {name}", speed[ALONE] / speed[name], 3) for name in ("MDS, in order",) if name in speed),
        _goal(f"CPU a byte, {REFERRED} to {OURS}", speed[OURS] / speed[REFERRED], 1.2, at_most=True),
        _goal("batch and mask, ms of CPU a row", alone["warm_cpu_ms_a_row"], 0.4, at_most=True),
        _goal(f"open {opened['rows']:,} rows, seconds", opened["seconds"], 3, at_most=True),
        _goal(f"order of {order['rows']:,} rows, ms a batch of 256", order["ms_a_batch"], 0.5, at_most=True),
        _goal("going on in it, ms", order["resume_ms"], 10, at_most=True),
        _goal("its state, bytes of JSON", order["state"], 200, at_most=True),
        _goal("memory that it grows by, MB", order["grown"] / 1e6, 1, at_most=True),
        _goal("int8g32, GB of stored bytes decoded a second", decoded["int8g32"]["stored"] / 1e9, 1),
    ]
    if "cold_disk" in ours:
        goals.append(_goal("bytes from the disk to those of rows", ours["cold_disk"], 1.01, at_most=True))
    if "store" in parts:
        found = parts["store"]
        goals.append(_goal("GETs a row on S3", found["gets"] / found["rows"], 1, at_most=True))
    return goals


def _goal(what: str, value: float, target: float, *, at_most: bool = False) -> dict[str, Any]:
    return {"what": what, "value": value, "goal": judge(value, target, at_most=at_most)}


def make_table(rows: Iterable[Mapping[str, Any]], options: argparse.Namespace) -> Table:
    """A reader a row, to the first of them where that is of use."""
    title = f"{options.bytes / 1e9:g} GB of float16 rows into padded batches of {options.batch}; MB without pads"
    table = Table(title=title, title_justify="left")
    names = ("reader", "CPU ms a row", "MB a CPU s", "MB/s warm", "MB/s cold", "cold, MB a CPU s", "disk bytes a row's")
    for name in names:
        table.add_column(name, justify="left" if name == "reader" else "right")
    for row in rows:
        cold = ("cold_mb_per_s", "cold_mb_per_cpu_s", "cold_disk")
        speed, cpu, disk = (row.get(name) for name in cold)
        table.add_row(
            row["name"],
            f"{row['warm_cpu_ms_a_row']:.2f}",
            f"{row['warm_mb_per_cpu_s']:,.0f}",
            f"{row['warm_mb_per_s']:,.0f}",
            "" if speed is None else f"{speed:,.0f}",
            "" if cpu is None else f"{cpu:,.0f}",
            "" if disk is None else f"{disk:.3f}",
        )
    return table


def make_goal_table(goals: Iterable[Mapping[str, Any]]) -> Table:
    """Goals beside the figures."""
    table = Table(title="what it is to show", title_justify="left")
    for name in ("what", "figure", "goal"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for goal in goals:
        table.add_row(goal["what"], f"{goal['value']:,.4g}", goal["goal"])
    return table


def _say(what: str) -> None:
    Console(stderr=True, highlight=False).print(what)


if __name__ == "__main__":
    main()
