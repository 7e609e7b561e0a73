"""What the pipeline costs: its tokens a second beside the engine's own, its driver, and Ray's object store.

First real prompts on the shape of t5-v1_1-base: the engine alone in this process, `t5enc encode` on the same cores,
and the engine again. The command's figure is that of its running phase, from the first ready actor to the last commit.

Then very many units of one caption each on the tiny model, by a driver in this process, whose CPU time is counted
without that of a job of one unit; meanwhile a thread watches the object store, which embeddings must never enter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.table import Table

from benchmarks.conditions.corpus import (
    add_prompts,
    add_tokenizer,
    draw_prompts,
    find_tokenizer,
    make_checkpoint,
    make_parser,
)
from benchmarks.conditions.machine import Machine, publish
from t5enc.checks.bench import clock
from t5enc.text_encoder import TextEncoder

COMMAND = (sys.executable, "-c", "from t5enc.cli import main; main()")
LOOK_SECONDS = 0.2
STORE = "object_store_memory"
# A span holds at most forty units, and needs no more than one row group then.
UNITS_A_GROUP = 320


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both, and print."""
    parser = make_parser(__doc__)
    add_prompts(parser)
    add_tokenizer(parser)
    parser.add_argument("--texts", type=int, default=2000, help="prompts for the comparison (default 2000)")
    parser.add_argument("--units", type=int, default=10_000, help="units for the driver (default 10,000)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.texts, options.units = 32, 40
    machine = Machine(counts_others=False)
    with tempfile.TemporaryDirectory() as folder:
        speed = compare(Path(folder), options)
        driver = measure_driver(Path(folder), options)
    figures = {"benchmark": "pipeline", "speed": speed, "driver": driver}
    publish(make_table(speed, driver), machine, figures, options)


def compare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of the engine alone and of the command's running phase."""
    model, tokenizer = str(make_checkpoint("smoke" if options.quick else "base")), find_tokenizer(options.tokenizer)
    prompts = draw_prompts(options.prompts, options.texts)
    before = measure_engine(prompts, model, tokenizer, options.threads)
    report = run_command(prompts, folder, model, tokenizer, options.threads)
    after = measure_engine(prompts, model, tokenizer, options.threads)
    engine = (before["tokens_per_second"] + after["tokens_per_second"]) / 2
    return {
        "engine": [before, after],
        "pipeline": {name: report[name] for name in ("tokens_per_second", "run_seconds", "cores_used_while_encoding")},
        "tokens": report["progress"]["tokens"],
        "ratio": report["tokens_per_second"] / engine,
    }


def measure_engine(prompts: Sequence[str], model: str, tokenizer: str, threads: int) -> dict[str, float]:
    """All prompts in one call, tokenized before."""
    encoder = TextEncoder.from_pretrained(model, tokenizer=tokenizer, device="cpu", num_threads=threads)
    encoder.warm_up()
    ids = encoder.tokenize(prompts).ids
    cpu = time.process_time()
    seconds = clock(partial(encoder.encode_ragged, ids, dtype=torch.float16), encoder.device)
    cores = (time.process_time() - cpu) / seconds
    return {"tokens_per_second": sum(map(len, ids)) / seconds, "run_seconds": seconds, "cores_used": cores}


def run_command(prompts: Sequence[str], folder: Path, model: str, tokenizer: str, threads: int) -> dict[str, Any]:
    """The report of `t5enc encode` over the same prompts."""
    captions, output = folder / "captions.parquet", folder / "embeddings"
    pq.write_table(pa.table({"caption": list(prompts)}), captions)
    settings = ["--model", model, "--tokenizer", tokenizer, "--device", "cpu", "--cpus-per-actor", str(threads)]
    subprocess.run([*COMMAND, "encode", str(captions), "--output", str(output), *settings], check=True)
    return dict(json.loads((output / "report.json").read_text()))


def measure_driver(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of the driver for each unit and span, and what the object store held meanwhile."""
    import ray

    from pipelines.nodes.local_ray import start_local

    start_local()
    try:
        setup = encode_units(folder / "one", ["a cat"])
        with StoreWatch() as store:
            report = encode_units(folder / "many", draw_prompts(options.prompts, options.units))
    finally:
        ray.shutdown()
    seconds = report.driver_cpu_seconds - setup.driver_cpu_seconds - store.cpu_seconds
    units = report.progress.cost.units
    return {
        "units": units,
        "spans": report.spans,
        "setup_cpu_seconds": setup.driver_cpu_seconds,
        "cpu_seconds": seconds,
        "ms_per_unit": 1000 * seconds / max(1, units - 1),
        "ms_per_span": 1000 * seconds / max(1, report.spans - 1),
        "wall_seconds": report.run_seconds,
        "output_bytes": report.totals["size"],
        "store_peak_bytes": store.peak,
    }


def encode_units(folder: Path, captions: Sequence[str]) -> Any:
    """Encode every caption as a unit of its own, with this process as the driver."""
    from pipelines.encode import encode_parquet
    from pipelines.job import EncodeJob

    folder.mkdir()
    path = folder / "captions.parquet"
    pq.write_table(pa.table({"caption": list(captions)}), path, row_group_size=UNITS_A_GROUP)
    return encode_parquet(
        EncodeJob(inputs=[str(path)], output=str(folder / "out"), model="builtin:tiny", rows_per_shard=1)
    )


class StoreWatch:
    """The most bytes that Ray's object store holds at a time, as a thread sees it, and what looking costs."""

    def __init__(self) -> None:
        self.peak = 0
        self.cpu_seconds = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> StoreWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        import ray

        there = ray.cluster_resources()[STORE]
        while not self._is_over.wait(LOOK_SECONDS):
            self.peak = max(self.peak, int(there - ray.available_resources().get(STORE, 0)))
        self.cpu_seconds = time.thread_time()


def make_table(speed: dict[str, Any], driver: dict[str, Any]) -> Table:
    """All figures, one a row."""
    table = Table("figure", "value", title="the pipeline", title_justify="left")
    for when, engine in zip(("before", "after"), speed["engine"], strict=True):
        rate, cores = engine["tokens_per_second"], engine["cores_used"]
        table.add_row(f"engine alone, {when}", f"{rate:,.0f} useful tokens/s on {cores:.2f} cores")
    ran = speed["pipeline"]
    rate, cores, seconds = ran["tokens_per_second"], ran["cores_used_while_encoding"], ran["run_seconds"]
    table.add_row("t5enc encode", f"{rate:,.0f} useful tokens/s on {cores:.2f} cores, {seconds:.1f} s")
    table.add_row("t5enc encode / engine alone", f"{speed['ratio']:.3f}")
    table.add_row("driver", "{units:,} units in {spans:,} spans, {wall_seconds:.1f} s".format_map(driver))
    table.add_row("driver CPU", "{ms_per_unit:.2f} ms a unit, {ms_per_span:.1f} ms a span".format_map(driver))
    table.add_row("embeddings written", f"{driver['output_bytes'] / 1e6:,.1f} MB")
    table.add_row("object store", f"{driver['store_peak_bytes'] / 1e6:,.3f} MB at most")
    return table


if __name__ == "__main__":
    main()
