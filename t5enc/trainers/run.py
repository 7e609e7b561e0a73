"""One run of an export: what it starts from, and work in threads whose number is bounded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from t5enc.output import OutputFolder
from t5enc.trainers.files import write_file
from t5enc.trainers.format import Given, Pieces
from t5enc.trainers.progress import Ticks
from t5enc.trainers.rows import Columns
from t5enc.trainers.target import Target

MOST_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An output, what its rows share, where to read them, and where files go, held against other exports."""

    folder: OutputFolder
    given: Given
    columns: Columns
    target: Target
    ticks: Ticks
    jobs: int
    link: bool = False

    def begin(self, files: int) -> None:
        """Everything was looked at, and nothing written yet."""
        self.target.record.begin()
        self.ticks.start(files)

    def end(self) -> None:
        """All files are there."""
        self.target.record.save(is_finished=True)


def find_extras(run: Run, extras: Iterable[tuple[str, Pieces]]) -> list[tuple[str, Pieces]]:
    """The files of no row that are still to be written; OutputError where somebody else's are there."""
    target = run.target
    return [pair for pair in extras if target.is_missing(pair[0], target.look_into(pair[0], b"".join(pair[1])))]


def find_index(run: Run, index: Iterable[tuple[str, Pieces]], *, is_stale: bool) -> list[tuple[str, Pieces]]:
    """The files about all others that are still to be written, all of them where others are; OutputError as above."""
    files = list(index)
    missing = find_extras(run, files)
    return files if is_stale else missing


def write_extras(run: Run, extras: Iterable[tuple[str, Pieces]]) -> tuple[int, int]:
    """Files and bytes."""
    sizes = [write_file(run.target.folder / name, [pieces]) for name, pieces in extras]
    return len(sizes), sum(sizes)


def count_threads() -> int:
    """Two a core: one may wait for the disk."""
    return min(MOST_THREADS, 2 * len(os.sched_getaffinity(0)))


def map_bounded(work: Callable[[Any], tuple[int, int]], things: Iterator[Any], jobs: int) -> Iterator[tuple[int, int]]:
    """The results in whatever order they come, with no more than two things a thread begun or waiting."""
    with ThreadPoolExecutor(jobs) as pool:
        pending: set[Future[tuple[int, int]]] = set()
        try:
            for thing in things:
                pending.add(pool.submit(work, thing))
                if len(pending) >= 2 * jobs:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from [future.result() for future in done]
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from [future.result() for future in done]
        finally:
            pool.shutdown(cancel_futures=True)
