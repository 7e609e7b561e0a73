"""Indexes of earlier outputs in a node's temporary folder: built by one process while the others wait, then shared.

What lies there is a copy of what outputs hold, and may be removed at any time; what was not used for a week is.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.reuse.index import KeyIndex

KEPT_SECONDS = 7 * 24 * 3600.0
LOCK = ".lock"
BUILDING = ".building"
# An index's name: letters that tell the output, then those that tell what it holds.
NAME = re.compile(r"([0-9a-f]{16})[0-9a-f]{16}")
# Of one output: the one that was built last, and the one that was used last before.
MOST_OF_AN_OUTPUT = 2


def find_cache() -> Path:
    """The folder of this user's indexes on this machine, made if need be.

    OSError where it cannot be, or something else is there: others may write where temporary files lie.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    folder = Path(tempfile.gettempdir()) / f"t5enc-reuse-{user}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OSError(
            f"{folder}: expected a folder of user {os.getuid()} that nobody else may enter (drwx------), "
            f"got {stat.filemode(found.st_mode)} of user {found.st_uid}; remove it, or set TMPDIR"
        )
    return folder


def open_index(name: str, build: Callable[[Path], bool], cache: Path | None = None) -> KeyIndex:
    """The index of this name, built by one process of the machine where it is not there as it was written.

    `build` says whether it is to be kept for others. OSError where it cannot be built or read; nothing is left then.
    """
    cache = cache or find_cache()
    remove_unused(cache, name)
    with FileLock(cache / f"{name}{LOCK}"):
        folder = cache / name
        try:
            index = KeyIndex(folder)
        except OSError:
            index = _build(folder, build)
            _remove_older(cache, name)
        else:
            os.utime(folder)
        return index


def _build(folder: Path, build: Callable[[Path], bool]) -> KeyIndex:
    """In a folder beside it, which a process that was killed leaves behind."""
    building = folder.with_name(f"{folder.name}{BUILDING}")
    for path in (building, folder):
        shutil.rmtree(path, ignore_errors=True)
    building.mkdir()
    try:
        is_kept = build(building)
        index = KeyIndex(building)
        if is_kept:
            building.rename(folder)
        return index
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove_unused(cache: Path, name: str) -> None:
    """Remove what nobody has opened for a week, but for this index; who has it mapped keeps it."""
    oldest = time.time() - KEPT_SECONDS
    for other in {other for other, _ in _list(cache) if other != name}:
        _remove(cache, other, oldest)


def _remove_older(cache: Path, name: str) -> None:
    """Of the output that an index is of, remove all others but those that were used last."""
    root = name[: len(name) // 2]
    others = sorted((used, other) for other, used in _list(cache) if other != name and other.startswith(root))
    for used, other in others[: -(MOST_OF_AN_OUTPUT - 1)]:
        _remove(cache, other, used + 1)


def _list(cache: Path) -> Iterator[tuple[str, float]]:
    """Names of indexes, whole ones or begun, and when each was used; of whatever else lies there nothing."""
    for path in cache.iterdir():
        other = path.name.removesuffix(BUILDING)
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            found = path.lstat()
            if NAME.fullmatch(other) and stat.S_ISDIR(found.st_mode):
                yield other, found.st_mtime


def _remove(cache: Path, name: str, before: float) -> None:
    """Remove an index that was not used since, unless a process is about to use it."""
    with contextlib.suppress(Timeout), FileLock(cache / f"{name}{LOCK}", timeout=0):
        for path in (cache / name, cache / f"{name}{BUILDING}"):
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime < before:
                    shutil.rmtree(path, ignore_errors=True)
