"""The record of an export in the folder that it writes to: which files there are its own, so that it can go on.

A file is an export's own if it was written, by the folder's own clock, after one of its runs began and before one of
another export did. It is whole if it has the right name and size as well, and the part of the output that it is of was
there already when it was written: a job may go on with captions that were changed. After a machine went down, the files
of an unfinished export are written anew: they may have been renamed before their bytes were on the disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t5enc.errors import OutputError

# Begins with a dot, and ends like nothing that a trainer reads.
FOLDER = ".t5enc-export"
# A line for each run that wrote: when it began, and the name of its record.
RUNS = "runs"
CLOCK = "clock"
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a run starts from: when it and those before it began, and since when files are whole, in nanoseconds.

    `path` is where that stands, `content` what is exported and how. `runs` are those before, with the stem of whose
    record it was. `parts` has since when the output holds each of its parts as it is. `folds_case` is
    whether the folder's disk takes names for one that differ in case alone.
    """

    path: Path
    content: Mapping[str, Any]
    now: int
    trusted: int
    runs: Sequence[tuple[int, str]]
    parts: dict[str, int]
    folds_case: bool

    def owns(self, written: int) -> bool:
        """Whether what was written then is this export's."""
        place = bisect_right(self.runs, written, key=lambda run: run[0]) - 1
        return place >= 0 and self.runs[place][1] == self.path.stem

    def date(self, parts: Iterable[str]) -> None:
        """The output has these parts, and no others; new ones since now."""
        dated = {part: self.parts.get(part, self.now) for part in parts}
        self.parts.clear()
        self.parts.update(dated)

    def begin(self) -> None:
        """What is written from here on is this export's."""
        self.save(is_finished=False)
        with _explained(self.path), (self.path.parent / RUNS).open("a", encoding="ascii") as stream:
            stream.write(f"\n{self.now} {self.path.stem}\n")
            stream.flush()
            os.fsync(stream.fileno())

    def save(self, *, is_finished: bool) -> None:
        """Write it; a finished one only when all files are on the disk."""
        if is_finished:
            os.sync()
        content = {"export": self.content, "trusted": self.trusted, "parts": self.parts}
        content |= {"boot": read_boot(), "is_finished": is_finished}
        aside = self.path.with_suffix(".t5enc-tmp")
        with _explained(self.path):
            aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
            os.replace(aside, self.path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """OutputError for a disk that is full, or refuses."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: expected a file that can be written, got {error}") from error


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other exports out of a folder; OutputError where one is at work there. A killed one keeps nobody out."""
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / FOLDER / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"{folder}: expected a folder that can be written to, got {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OutputError(f"{folder}: expected no other export at work there, got one") from error
    finally:
        os.close(descriptor)


def open_record(folder: Path, content: Mapping[str, Any]) -> Record:
    """The record of an export, whose `content` says what is exported and how: an earlier run's, or a new one."""
    text = json.dumps(content, sort_keys=True)
    path = folder / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    now = _read_clock(folder)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        is_trusted = found["is_finished"] or found["boot"] == read_boot()
        trusted, parts = int(found["trusted"]) if is_trusted else now, dict(found["parts"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        trusted, parts = now, {}
    runs = read_runs(folder / FOLDER / RUNS)
    folds = (folder / FOLDER / CLOCK.upper()).exists()
    return Record(path=path, content=content, now=now, trusted=trusted, runs=runs, parts=parts, folds_case=folds)


def read_runs(path: Path) -> list[tuple[int, str]]:
    """When runs began, and whose they were, by time, which may have been set back.

    A line that was cut is of a run that wrote nothing.
    """
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    found = (line.split() for line in lines)
    return sorted((int(words[0]), words[1]) for words in found if len(words) == 2)


def read_boot() -> str:
    """What changes when the machine starts anew; empty where the system does not tell."""
    return BOOT.read_text(encoding="ascii").strip() if BOOT.exists() else ""


def _read_clock(folder: Path) -> int:
    """Now, as the folder's disk has it."""
    probe = folder / FOLDER / CLOCK
    with _explained(probe):
        probe.write_bytes(b"")
        os.utime(probe)
        return probe.stat().st_mtime_ns
