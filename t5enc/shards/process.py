"""What one process holds of shards: open files, indexes, decoded groups, columns, memory, threads; none is inherited.

A process that was forked finds locks, threads and connections in whatever state they were; so each has its own.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from t5enc.shards.bounded import Bounded
from t5enc.shards.files import OpenShard
from t5enc.shards.index import ShardIndex
from t5enc.shards.memory import BatchMemory
from t5enc.shards.row_groups import DecodedGroup

# Of local files at a time; those of stores are but names.
OPEN_FILES, OPEN_OBJECTS = 128, 1 << 14
INDEX_BYTES = 256 << 20
GROUP_BYTES = 256 << 20
COLUMN_BYTES = 256 << 20
# A store answers late, and several requests at once.
REQUESTS_PER_THREAD = 4
# Another thread is worth its start for so many bytes of a disk; of a store, for any.
SHARE_BYTES = 4 << 20
# Tasks of a long list that wait at a time, for each thread.
AHEAD = 4

# Of the files that the system lets a process open, the part that one dataset keeps.
FILE_SHARE = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


class Process:
    """Held by a dataset for the process `number`; filesystems opened in another are opened anew."""

    def __init__(self, filesystems: Sequence[Any], threads: int, opened_in: int) -> None:
        is_here = opened_in == os.getpid()
        self.filesystems = list(filesystems) if is_here else pickle.loads(pickle.dumps(list(filesystems)))
        is_local = all(isinstance(filesystem, pafs.LocalFileSystem) for filesystem in filesystems)
        self.share_bytes = SHARE_BYTES if is_local else 1
        self.threads = threads if is_local else threads * REQUESTS_PER_THREAD
        self.files: Bounded[OpenShard] = Bounded(count_files() if is_local else OPEN_OBJECTS)
        self.indexes: Bounded[ShardIndex] = Bounded(INDEX_BYTES, lambda index: index.nbytes)
        self.groups: Bounded[DecodedGroup] = Bounded(GROUP_BYTES, lambda group: group.nbytes)
        self.columns: Bounded[pa.Table] = Bounded(COLUMN_BYTES, lambda table: 1024 + int(table.nbytes))
        self.memory = BatchMemory()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="t5enc-dataset")

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """All tasks, side by side; the first error when all have ended."""
        if len(tasks) <= 1 or self.threads == 1:
            return [task() for task in tasks]
        others = [self._pool.submit(task) for task in tasks[1:]]
        try:
            first = tasks[0]()
        finally:
            wait(others)
        return [first, *(future.result() for future in others)]

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`work` of each item in order, a few of them ahead."""
        waiting: list[Future[Result]] = []
        for item in items:
            waiting.append(self._pool.submit(work, item))
            if len(waiting) >= AHEAD * self.threads:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def count_files() -> int:
    """Local files that a dataset keeps open: a part of what the system lets this process have."""
    try:
        import resource
    except ImportError:  # Windows
        return OPEN_FILES
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if most == resource.RLIM_INFINITY else max(1, min(OPEN_FILES, most // FILE_SHARE))
