"""Indexes of earlier outputs in a node's temporary folder: built by one process while the others wait, then shared.

What lies there is a copy of what outputs hold, and may be removed at any time; what was not used for a week is.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from pipelines.reuse.index import KeyIndex

KEPT_SECONDS = 7 * 24 * 3600.0
LOCK = ".lock"
BUILDING = ".building"


def find_cache() -> Path:
    """The folder of this user's indexes on this machine, made if need be; OSError where it cannot be."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    folder = Path(tempfile.gettempdir()) / f"t5enc-reuse-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def open_index(name: str, build: Callable[[Path], None], cache: Path | None = None) -> KeyIndex:
    """The index of this name, built by one process of the machine where it is not there whole.

    OSError where the disk is full; nothing of it is left then.
    """
    cache = cache or find_cache()
    remove_unused(cache, name)
    folder = cache / name
    with FileLock(cache / f"{name}{LOCK}"):
        if not folder.exists():
            _build(folder, build)
        os.utime(folder)
        return KeyIndex(folder)


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    """In a folder beside it, which a process that was killed leaves behind."""
    building = folder.with_name(f"{folder.name}{BUILDING}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        build(building)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def remove_unused(cache: Path, name: str) -> None:
    """Remove what nobody has opened for a week, but for this index; who has it mapped keeps it."""
    oldest = time.time() - KEPT_SECONDS
    for path in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            if path.is_dir() and not path.name.startswith(name) and path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)
