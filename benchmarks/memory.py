"""Peak memory of the process that encodes, for ten thousand and for a hundred thousand short captions.

Both jobs run through the real pipeline on a local Ray: the size of a job must not show in its actor. VmHWM is the
most memory that a process has ever held, mapped files included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.conditions.corpus import add_prompts, make_parser, make_short_texts
from benchmarks.conditions.machine import Machine, judge, publish

if TYPE_CHECKING:
    from pipelines.progress.ledger import Progress
    from pipelines.run.state import RunState

SIZES = (10_000, 100_000)
GROWTH_TARGET = 1.1


def main(arguments: Sequence[str] | None = None) -> None:
    """Encode both, and print."""
    parser = make_parser(__doc__)
    add_prompts(parser)
    options = parser.parse_args(arguments)
    machine = Machine(counts_others=False)
    rows = [measure(count, options.prompts) for count in ((100, 200) if options.quick else SIZES)]
    growth = rows[-1]["bytes_peak"] / rows[0]["bytes_peak"]
    figures = {"benchmark": "memory", "rows": rows, "growth": growth, "target": GROWTH_TARGET}
    publish(make_table(rows, growth), machine, figures, options)


def measure(count: int, prompts: Sequence[Path] | None) -> dict[str, Any]:
    """Encode so many captions with the tiny model, and see what its process came to hold."""
    from pipelines.encode import encode_parquet
    from pipelines.job import EncodeJob

    peak = PeakMemory()
    with tempfile.TemporaryDirectory() as folder:
        captions = Path(folder, "captions.parquet")
        pq.write_table(pa.table({"caption": make_short_texts(prompts, count)}), captions)
        job = EncodeJob(inputs=[str(captions)], output=str(Path(folder, "out")), model="builtin:tiny")
        report = encode_parquet(job, peak)
    return {"captions": count, "tokens": report.progress.counts.tokens, "bytes_peak": peak.bytes}


class PeakMemory:
    """A callback for a run: the most memory that any of its encoding processes has held."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, progress: Progress, run: RunState) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                if "EncoderActor" in process.cmdline()[0]:
                    self.bytes = max(self.bytes, read_peak(process.pid))
            except (psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError, IndexError):
                continue  # it has ended since it was listed


def read_peak(process: int) -> int:
    """Bytes of VmHWM of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def make_table(rows: Sequence[dict[str, Any]], growth: float) -> Table:
    """The rows, and how the last compares with the first."""
    table = Table(title="peak memory of the encoding process, builtin:tiny", title_justify="left")
    for column in ("captions", "tokens", "peak MB", "to the first", "target"):
        table.add_column(column, justify="right")
    for row in rows:
        is_last = row is rows[-1]
        table.add_row(
            f"{row['captions']:,}",
            f"{row['tokens']:,}",
            f"{row['bytes_peak'] / 1e6:,.0f}",
            f"{growth:.3f}" if is_last else "",
            judge(growth, GROWTH_TARGET, at_most=True) if is_last else "",
        )
    return table


if __name__ == "__main__":
    main()
