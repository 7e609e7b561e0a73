"""What the order of a billion rows costs: a batch of 256, resuming, and memory, by each way to order and to batch.

The data set is lengths and row groups without files, so that nothing but the sampler is measured.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.conditions.corpus import make_parser
from benchmarks.conditions.machine import Machine, judge, publish
from t5enc.dataset.lookup import Groups
from t5enc.dataset.sampler import EmbeddingSampler

ROWS, BATCH, BATCHES = 10**9, 256, 1_000
ROWS_OF_A_GROUP = 10_000
# Milliseconds: of a batch, and until the first batch after a state is loaded.
BATCH_TARGET, RESUME_TARGET = 0.5, 10
WAYS: dict[str, dict[str, Any]] = {
    "by count": {"batch_size": BATCH},
    "by count, with dropout": {"batch_size": BATCH, "dropout": 0.1},
    "by count, row groups": {"batch_size": BATCH, "order": "row_groups"},
    "by count, in length buckets": {"batch_size": BATCH, "bucket_rows": 100 * BATCH},
    "by tokens": {"batch_tokens": BATCH * 100},
}
# What any place of an epoch costs nothing in; row groups are put in order first, and windows are sorted.
JUDGED = ("by count", "by count, with dropout")


class Lengths:
    """So many rows of 1 to 200 tokens, which are computed where they are asked for."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def lengths(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int32]:
        assert rows is not None
        return (rows * 7919 % 200 + 1).astype(np.int32)

    def row_group_offsets(self) -> NDArray[np.int64]:
        return np.append(np.arange(0, self._rows, ROWS_OF_A_GROUP), self._rows)

    def groups(self, by: str) -> Groups:
        raise KeyError(by)

    def read_column(self, name: str) -> pa.ChunkedArray:
        raise KeyError(name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each way, and print."""
    options = make_parser(__doc__).parse_args(arguments)
    machine = Machine()
    rows, batches = (10**6, 10) if options.quick else (ROWS, BATCHES)
    measured = [{"name": name} | measure(Lengths(rows), way, batches) for name, way in WAYS.items()]
    figures = {"benchmark": "order", "rows": measured, "targets": {"batch": BATCH_TARGET, "resume": RESUME_TARGET}}
    publish(make_table(measured, rows), machine, figures, options)


def measure(data: Lengths, way: dict[str, Any], batches: int) -> dict[str, float]:
    """Milliseconds of a batch (mean and median) and of resuming in the middle, and the peak of memory of both."""
    sampler = EmbeddingSampler(data, rank=0, world_size=1, **way)
    state = sampler.state_dict()
    state["window"] = len(data) // 2 // (way.get("bucket_rows") or way.get("batch_size") or 8192)
    resumed = EmbeddingSampler(data, rank=0, world_size=1, **way)
    started = time.perf_counter()
    resumed.load_state_dict(state)
    next(iter(resumed))
    resuming = time.perf_counter() - started
    seconds = time_batches(resumed, batches)
    return {
        "ms_mean": float(np.mean(seconds)) * 1e3,
        "ms_median": median(seconds) * 1e3,
        "ms_resume": resuming * 1e3,
        "bytes_peak": measure_memory(resumed),
    }


def time_batches(sampler: EmbeddingSampler, count: int) -> list[float]:
    """Seconds of each of the next batches."""
    iterator, seconds = iter(sampler), []
    for _ in range(count):
        started = time.perf_counter()
        next(iterator)
        seconds.append(time.perf_counter() - started)
    return seconds


def measure_memory(sampler: EmbeddingSampler) -> int:
    """The most bytes that ten more batches take beside what there is."""
    tracemalloc.start()
    try:
        time_batches(sampler, 10)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def make_table(measured: Sequence[dict[str, Any]], rows: int) -> Table:
    """A line a way; the targets are those of batches by count."""
    table = Table(title=f"a sampler over {rows:,} rows, batches of about {BATCH}", title_justify="left")
    for column in ("", "ms a batch", "median", "target", "ms to resume", "target", "MB beside"):
        table.add_column(column, justify="right" if column else "left")
    for row in measured:
        table.add_row(
            row["name"],
            f"{row['ms_mean']:.3f}",
            f"{row['ms_median']:.3f}",
            judge(row["ms_mean"], BATCH_TARGET, at_most=True),
            f"{row['ms_resume']:.2f}",
            judge(row["ms_resume"], RESUME_TARGET, at_most=True) if row["name"] in JUDGED else "",
            f"{row['bytes_peak'] / 1e6:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
