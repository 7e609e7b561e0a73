"""Files that are there whole or not at all: written under a name that no trainer looks for, and then renamed.

Names come from data. One that leaves the folder, or that no disk takes, is refused before anything is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from t5enc.errors import OutputError
from t5enc.trainers.format import Pieces

# Bytes that a file's name may have on the disks that are used.
LONGEST_NAME = 255
# Buffers that one call of `writev` takes.
MOST_BUFFERS = 1024


def check_name(name: str) -> str | None:
    """Why a file cannot be called so, if it cannot; names have `/` between folders."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "" in parts or "." in parts:
        return "it leaves the folder"
    if "\0" in name:
        return "no name holds a zero byte"
    longest = max(len(part.encode()) for part in parts)
    return f"a part of it has {longest} bytes, and disks take {LONGEST_NAME}" if longest > LONGEST_NAME else None


def write_file(path: Path, pieces: Iterable[Pieces]) -> int:
    """Write a file whole or not at all, replacing what is there; its bytes. OutputError where the disk refuses.

    It is not flushed to the disk: a killed process leaves nothing torn, and of a machine that lost its power the
    record of an unfinished export tells.
    """
    aside = name_aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = _write(aside, pieces)
        os.replace(aside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError):
            raise OutputError(f"{path}: expected a file that can be written, got {error}") from error
        raise
    return size


def link_file(path: Path, source: str) -> int:
    """Have `path` be the file `source`, too, whole or not at all; 0.

    Where the disk cannot, as between two disks, it is a copy; the bytes of that. OutputError where that fails, too.
    """
    aside, size = name_aside(path), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        try:
            os.link(source, aside)
        except OSError:
            shutil.copyfile(source, aside)
            size = aside.stat().st_size
        os.replace(aside, path)
    except OSError as error:
        raise OutputError(f"{path}: expected a hard link to {source}, or a copy, got {error}") from error
    return size


def list_files(folder: Path) -> Iterator[str]:
    """All files below a folder, with `/` between folders."""
    for where, _, names in os.walk(folder):
        yield from (Path(where, name).relative_to(folder).as_posix() for name in names)


def name_aside(path: Path) -> Path:
    """Where a file is written before it has its name; the next run writes over what a killed one left there."""
    digest = hashlib.sha256(path.name.encode()).hexdigest()[:16]
    return path.with_name(f".{digest}.t5enc-tmp")


def _write(path: Path, pieces: Iterable[Pieces]) -> int:
    """A file of its own: what a killed run left there may be a hard link to a shard, which must not be written to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileExistsError:
        path.unlink()
        descriptor = os.open(path, flags, 0o666)
    try:
        return sum(_write_pieces(descriptor, part) for part in pieces)
    finally:
        os.close(descriptor)


def _write_pieces(descriptor: int, pieces: Pieces) -> int:
    """All bytes of some buffers, as often as the system has to be asked."""
    left = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
    total = sum(len(piece) for piece in left)
    while left:
        written = os.writev(descriptor, left[:MOST_BUFFERS])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]
    return total
