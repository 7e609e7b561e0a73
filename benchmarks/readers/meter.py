"""What a pass over stored rows costs: seconds, CPU seconds of all threads, bytes from the disk. Needs no package."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Meter:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self.disk = read_disk_bytes()
        self.cpu = time.process_time()
        self.wall = time.perf_counter()

    def stop(self, rows: int, size: int) -> dict[str, Any]:
        """The costs of so many rows of so many bytes."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {"rows": rows, "bytes": size, "wall": wall, "cpu": cpu, "disk": read_disk_bytes() - self.disk}


def measure(batches: Iterable[tuple[int, int]], *, skip: int = 0, limit: int = sys.maxsize) -> dict[str, Any]:
    """The costs of batches, of so many rows and bytes each, from the first after `skip` rows to the `limit`-th row.

    What comes before is how a process begins: memory that nobody has touched, files that nobody has opened.
    """
    meter, rows, size = Meter(), 0, 0
    for count, read in batches:
        rows, size = rows + count, size + read
        if rows >= limit:
            break
        if skip and rows >= skip:
            meter, rows, size, skip = Meter(), 0, 0, 0
    return meter.stop(rows, size)


def read_disk_bytes() -> int:
    """What this process had read from disks; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def evict(files: Iterable[Path]) -> None:
    """Have the system forget what it holds of files, so that they are read from the disk."""
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(files: Iterable[Path]) -> None:
    """Have the system hold files, if it can."""
    for path in files:
        with path.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass
