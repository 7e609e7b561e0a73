"""Footers of very many files: on one machine by threads, on a cluster by tasks of some hundred files each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import pyarrow.fs as pafs

from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import SourceFile
from pipelines.nodes.selectors import list_nodes
from pipelines.plan.plan import Files
from pipelines.plan.units import PlannedFile
from pipelines.stores.concurrent_map import THREADS, map_ahead
from t5enc.errors import SourceError

FILES_A_TASK = 500
# A store far away answers in tens of milliseconds: more threads wait for it.
THREADS_AFAR = 64
# Tasks that are begun for each CPU of a cluster before the first is over.
TASKS_A_CPU = 2


def count_cpus() -> int:
    """CPUs of the Ray that this process is connected to; 0 where that is one machine, and threads do as well."""
    nodes = list_nodes()
    return int(sum(node.resources.get("CPU", 0.0) for node in nodes)) if len(nodes) > 1 else 0


def survey(filesystem: Any, sources: Sequence[SourceFile], *, cpus: int = 0) -> tuple[Files, dict[str, str]]:
    """The files that can be read, in order, and the reason for each that cannot; `cpus` of a Ray cluster, if any."""
    bad: dict[str, str] = {}
    is_large = cpus and len(sources) > FILES_A_TASK
    found = _read_by_tasks(filesystem, sources, cpus) if is_large else _read_by_threads(filesystem, sources)
    return Files.of(_set_aside(zip(sources, found, strict=True), bad)), bad


def _set_aside(found: Iterator[tuple[SourceFile, PlannedFile | str]], bad: dict[str, str]) -> Iterator[PlannedFile]:
    """Those that could be read; the reasons of the others go into `bad`."""
    for file, planned in found:
        if isinstance(planned, str):
            bad[file.source] = planned
        else:
            yield planned


def _read_by_threads(filesystem: Any, sources: Sequence[SourceFile]) -> Iterator[PlannedFile | str]:
    threads = THREADS if isinstance(filesystem, pafs.LocalFileSystem) else THREADS_AFAR
    return map_ahead(partial(_plan_file, filesystem), sources, threads=threads)


def _plan_file(filesystem: Any, file: SourceFile) -> PlannedFile | str:
    try:
        footer = read_footer(filesystem, file)
    except SourceError as error:
        return str(error)
    largest = max(footer.row_group_rows, default=0)
    return PlannedFile(file=file, num_rows=footer.num_rows, largest_group=largest, digest=footer.digest)


def _read_by_tasks(filesystem: Any, sources: Sequence[SourceFile], cpus: int) -> Iterator[PlannedFile | str]:
    """The same by Ray tasks, wherever there are CPUs; no more of them at once than keep those busy."""
    import ray

    read: Any = ray.remote(_read_piece)
    pieces = (sources[start : start + FILES_A_TASK] for start in range(0, len(sources), FILES_A_TASK))
    begun = (read.options(num_cpus=1).remote(filesystem, piece) for piece in pieces)
    waiting = deque(islice(begun, TASKS_A_CPU * cpus))
    while waiting:
        yield from ray.get(waiting.popleft())
        waiting.extend(islice(begun, 1))


def _read_piece(filesystem: Any, sources: Sequence[SourceFile]) -> list[PlannedFile | str]:
    return list(_read_by_threads(filesystem, sources))
