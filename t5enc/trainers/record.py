"""The record of an export in the folder that it writes to: which files there are its own, so that it can go on.

A file is an export's own, and whole, if it has the right name and size and was written after the export began, by the
folder's own clock, while no other export replaced files there. After a machine went down, the files of an unfinished
export count for nothing: they may have been renamed before their bytes were on the disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t5enc.errors import OutputError

# Begins with a dot, and ends like nothing that a trainer reads.
FOLDER = ".t5enc-export"
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a run starts from: since when files are its own, and since when they are whole, in nanoseconds.

    `path` is where that stands, `content` what is exported and how.
    """

    path: Path
    content: Mapping[str, Any]
    begun: int
    trusted: int

    def save(self, *, is_finished: bool) -> None:
        """Write it; a finished one only when all files are on the disk."""
        if is_finished:
            os.sync()
        content = {"export": self.content, "begun": self.begun, "trusted": self.trusted}
        content |= {"boot": read_boot(), "is_finished": is_finished}
        aside = self.path.with_suffix(".t5enc-tmp")
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(aside, self.path)

    def drop_others(self) -> None:
        """No other export's files can be told from this one's any more."""
        for path in self.path.parent.glob("*.json"):
            if path != self.path:
                path.unlink()


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
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        is_trusted = found["is_finished"] or found["boot"] == read_boot()
        begun, trusted = int(found["begun"]), int(found["trusted"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        now = _read_clock(folder)
        return Record(path=path, content=content, begun=now, trusted=now)
    return Record(path=path, content=content, begun=begun, trusted=trusted if is_trusted else _read_clock(folder))


def read_boot() -> str:
    """What changes when the machine starts anew; empty where the system does not tell."""
    return BOOT.read_text(encoding="ascii").strip() if BOOT.exists() else ""


def _read_clock(folder: Path) -> int:
    """Now, as the folder's disk has it."""
    probe = folder / FOLDER / "clock"
    probe.write_bytes(b"")
    os.utime(probe)
    return probe.stat().st_mtime_ns
