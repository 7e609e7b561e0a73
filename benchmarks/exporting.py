"""MB a second from an output into trainers' caches, and back from one, beside files of the same sizes written plainly.

The cache that is imported is musubi-tuner's of made-up rows; what is exported is the output that becomes of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.conditions.corpus import make_parser
from benchmarks.conditions.machine import Machine, judge, publish
from pipelines.imports.importing import import_cache
from pipelines.imports.readers import open_reader
from t5enc.recipes.recipe import Recipe
from t5enc.storage.layout import JOB
from t5enc.trainers import build_format, export_embeddings

DIM, TOKENS, MEGABYTES = 4096, 98, 500
# MB a second, where the disk allows.
TARGET = 500
FORMATS: Mapping[str, dict[str, str]] = {
    "musubi": {},
    "ai-toolkit": {"arch": "wan21"},
    "simpletuner": {"family": "wan"},
    "webdataset": {"member": "safetensors"},
    "fastvideo": {},
    "pixart": {"compress": "false"},
    "cosmos": {},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Import a cache, export it in each format, and print."""
    options = make_parser(__doc__).parse_args(arguments)
    machine = Machine()
    count = 20 if options.quick else MEGABYTES * 10**6 // (TOKENS * DIM * 2)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_all(Path(folder), count, options.threads)
    publish(make_table(rows), machine, {"benchmark": "exporting", "rows": rows, "target": TARGET}, options)


def measure_all(folder: Path, count: int, threads: int) -> list[dict[str, Any]]:
    """An import, and each export after the plain files of its sizes."""
    cache, output = folder / "cache", folder / "output"
    size = write_cache(cache, count)
    rows = [measure("import musubi", lambda: import_cache(open_reader("musubi"), cache, str(output)) and size)]
    shutil.rmtree(cache)
    for name, given in FORMATS.items():
        rows += measure_format(name, given, output, folder / name, threads)
    return rows


def measure_format(name: str, given: dict[str, str], output: Path, to: Path, threads: int) -> list[dict[str, Any]]:
    """An export, and after it plain files of the same sizes; none of them stays."""
    pretend(output, build_format(name, given).recipes)
    exported = measure(
        f"export {name}",
        lambda: export_embeddings(name, output, to, options=given, stem_column="stem", jobs=threads).bytes,
    )
    sizes = [path.stat().st_size for path in to.rglob("*") if path.is_file()]
    shutil.rmtree(to)
    plain = measure(f"  plain files of these sizes, {name}", lambda: write_plainly(to, sizes))
    shutil.rmtree(to)
    return [exported, plain]


def pretend(output: Path, recipes: Sequence[Recipe]) -> None:
    """Have an output's job say that it is of the first of these recipes: its numbers are made up in any case."""
    content = json.loads((output / JOB).read_text())
    for recipe in recipes[:1]:
        content["identity"] |= {"recipe": recipe.to_identity() | {"null": "none"}, "max_length": recipe.max_length}
    (output / JOB).write_text(json.dumps(content))


def write_cache(folder: Path, count: int) -> int:
    """Files of musubi-tuner's, all of the same length; their bytes."""
    folder.mkdir()
    values = torch.randn(TOKENS, DIM).bfloat16()
    for index in range(count):
        metadata = {"architecture": "wan", "caption1": f"caption {index}", "format_version": "1.0.1"}
        save_file({"varlen_t5_bfloat16": values}, folder / f"{index}_wan_te.safetensors", metadata)
    return count * values.nbytes


def write_plainly(folder: Path, sizes: Sequence[int]) -> int:
    """Zeros, a file after the other, and then all to the disk."""
    folder.mkdir()
    zeros = bytes(max(sizes))
    for index, size in enumerate(sizes):
        with open(folder / str(index), "wb", buffering=0) as file:
            file.write(memoryview(zeros)[:size])
    os.sync()
    return sum(sizes)


def measure(name: str, work: Callable[[], int]) -> dict[str, Any]:
    """Seconds and CPU seconds of some work, and the bytes that it tells."""
    started, cpu = time.perf_counter(), time.process_time()
    size = work()
    return {
        "name": name,
        "bytes": size,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
    }


def make_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """MB a second of wall and of CPU time."""
    table = Table(title="files written, each flushed to the disk at the end", title_justify="left")
    for head in ("what", "MB", "MB/s", "MB/s of CPU", "target"):
        table.add_column(head, justify="left" if head in ("what", "target") else "right")
    for row in rows:
        rate = row["bytes"] / 1e6 / row["seconds"]
        told = judge(rate, TARGET) if row["name"].startswith("export") else ""
        cpu = row["bytes"] / 1e6 / max(row["cpu_seconds"], 1e-9)
        table.add_row(row["name"], f"{row['bytes'] / 1e6:,.0f}", f"{rate:,.0f}", f"{cpu:,.0f}", told)
    return table


if __name__ == "__main__":
    main()
