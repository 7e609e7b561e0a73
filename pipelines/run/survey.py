"""Footers of very many files, each read once: on one machine by threads, on a cluster by tasks of some hundred each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import pyarrow.fs as pafs

from pipelines.inputs.columns.schemas_seen import SchemaSeen, SchemaTally, pack_schema
from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import SourceFile
from pipelines.plan.density import Weighing, measure
from pipelines.plan.plan import Files
from pipelines.plan.units import PlannedFile
from pipelines.stores.concurrent_map import THREADS, map_concurrently
from t5enc.errors import SourceError

FILES_A_TASK = 500
# A store far away answers in tens of milliseconds: more threads wait for it.
THREADS_AFAR = 64
# Tasks that are begun for each CPU of a cluster before the first is over.
TASKS_A_CPU = 2
# Reasons that are told where no file can be read.
SHOWN_REASONS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The files that can be read, in order, the schemas that they have, and the reason for each that cannot."""

    files: Files
    schemas: Sequence[SchemaSeen]
    unreadable: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that can be read, and its schema; of those that a task has read, equal ones are sent once."""

    planned: PlannedFile
    schema: bytes


Plan = Callable[[SourceFile], "_Found | str"]


def survey(
    filesystem: Any, sources: Sequence[SourceFile], *, weighing: Weighing | None = None, cpus: int = 0
) -> Survey:
    """Read the footer of every file; `cpus` of a Ray cluster, if any. SourceError where no file can be read.

    `weighing` says what of a file counts where units are cut by captions and bytes.
    """
    is_large = cpus and len(sources) > FILES_A_TASK
    plan = partial(_plan_file, filesystem, weighing)
    found = _read_by_tasks(filesystem, sources, plan, cpus) if is_large else _read_by_threads(filesystem, sources, plan)
    unreadable: dict[str, str] = {}
    tally = SchemaTally()
    files = Files.of(_tally(_set_aside(zip(sources, found, strict=True), unreadable), tally))
    if not files:
        reasons = list(unreadable.values())[:SHOWN_REASONS]
        raise SourceError("no input can be read:\n" + "\n".join(f"  {reason}" for reason in reasons))
    return Survey(files=files, schemas=tally.telling(), unreadable=unreadable)


def _tally(found: Iterable[_Found], tally: SchemaTally) -> Iterator[PlannedFile]:
    """The files, each of whose schemas is counted."""
    for one in found:
        tally.add(one.schema, one.planned.file, one.planned.num_rows)
        yield one.planned


def _set_aside(found: Iterator[tuple[SourceFile, _Found | str]], unreadable: dict[str, str]) -> Iterator[_Found]:
    """Those that could be read; the reasons of the others go into `unreadable`."""
    for file, one in found:
        if isinstance(one, str):
            unreadable[file.source] = one
        else:
            yield one


def _read_by_threads(filesystem: Any, sources: Sequence[SourceFile], plan: Plan) -> Iterator[_Found | str]:
    threads = THREADS if isinstance(filesystem, pafs.LocalFileSystem) else THREADS_AFAR
    return map_concurrently(plan, sources, threads=threads)


def _plan_file(filesystem: Any, weighing: Weighing | None, file: SourceFile) -> _Found | str:
    try:
        footer = read_footer(filesystem, file)
        densities = () if weighing is None else measure(footer.metadata, footer.schema, weighing)
    except SourceError as error:
        return str(error)
    except OSError as error:
        return f"{file.source}: expected a Parquet footer, got a damaged one: {error}"
    largest = max(footer.row_group_rows, default=0)
    planned = PlannedFile(
        file=file,
        num_rows=footer.num_rows,
        largest_group=largest,
        digest=footer.digest,
        densities=densities,
    )
    return _Found(planned, pack_schema(footer.schema))


def _read_by_tasks(filesystem: Any, sources: Sequence[SourceFile], plan: Plan, cpus: int) -> Iterator[_Found | str]:
    """The same by Ray tasks, wherever there are CPUs; no more of them at once than keep those busy."""
    import ray

    read: Any = ray.remote(_read_piece)
    pieces = (sources[start : start + FILES_A_TASK] for start in range(0, len(sources), FILES_A_TASK))
    begun = (read.options(num_cpus=1).remote(filesystem, piece, plan) for piece in pieces)
    waiting = deque(islice(begun, TASKS_A_CPU * cpus))
    while waiting:
        yield from ray.get(waiting.popleft())
        waiting.extend(islice(begun, 1))


def _read_piece(filesystem: Any, sources: Sequence[SourceFile], plan: Plan) -> list[_Found | str]:
    known: dict[bytes, bytes] = {}
    found = _read_by_threads(filesystem, sources, plan)
    return [one if isinstance(one, str) else _share_schema(one, known) for one in found]


def _share_schema(one: _Found, known: dict[bytes, bytes]) -> _Found:
    return replace(one, schema=known.setdefault(one.schema, one.schema))
