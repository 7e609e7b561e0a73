"""Where a job's objects are kept: the few operations that its commit protocol needs, and no others.

An object appears whole or not at all, under its final name, and `create` never replaces one: the first writer
wins, and a late writer of a killed run is harmless.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import pyarrow
import pyarrow.fs

from pipelines.stores.remote_store import RemoteStore, name_aside
from t5enc.errors import OutputError
from t5enc.machine.disks import sync, sync_path
from t5enc.storage.filesystems import find_filesystem
from t5enc.storage.layout import TEMPORARY

BUCKETS = ("s3", "gs", "gcs")
UNSYNCED = "its disk syncs no folders: a power cut may take what was written last, which `t5enc fsck` then finds"
UNGUARDED = "its disk has no links, and its renames replace what is there: let no two machines write to it at once"
# Another disk, one without links, somebody else's file, and one that has as many names as it may.
UNLINKED = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EMLINK)
# Of Linux: paths are as they stand, and a name that is taken stays.
AT_FDCWD, RENAME_NOREPLACE = -100, 1


class Store(Protocol):
    """Named objects under one root; names use '/'."""

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """(name, size) of every object, or of those in a folder; temporary ones apart."""

    def read(self, name: str) -> bytes:
        """The object's bytes; FileNotFoundError where there is none."""

    def open(self, name: str) -> Any:
        """The object as a pyarrow random-access file, for reading a part of it."""

    def size(self, name: str) -> int | None:
        """The object's size in bytes, or None where there is none."""

    def create(self, name: str, data: Any) -> bool:
        """Store a bytes-like object under a name that is free; False, and nothing changed, where it is taken."""

    def replace(self, name: str, data: Any) -> None:
        """Store an object, whatever was there before."""

    def move(self, name: str, target: str) -> None:
        """Rename an object; one that is gone already is no error."""

    def delete(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""

    def list_unnamed(self) -> dict[str, float]:
        """Temporary files, and when each was last written to, in seconds of Unix time.

        Their names are the last part of the name that each is to get, and what tells it from others.
        """

    def sweep(self, unnamed: Iterable[str]) -> None:
        """Remove these temporary files: for those whose writers are dead, or will find their names taken."""


def open_store(path: str) -> Store:
    """The store of an output: links on a local disk, conditional puts on S3 and Google's, writes or moves elsewhere."""
    if path.partition("://")[0] in BUCKETS:
        return open_bucket_once(path)
    filesystem, root = find_filesystem(path)
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        return LocalStore(Path(root))
    return RemoteStore(filesystem, root)


@lru_cache(maxsize=8)
def open_bucket_once(uri: str) -> Store:
    """The same store for every shard, so that connections and credentials are kept."""
    from pipelines.stores.buckets import open_bucket

    return open_bucket(*find_filesystem(uri))


class LocalStore:
    """A folder on a disk. Objects are written aside, synced, and linked to their name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.weaknesses: set[str] = set()

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """(name, size) of every object, temporary ones apart."""
        for where, _, files in os.walk(self.root / folder):
            if Path(where) == self.root / TEMPORARY:
                continue
            for file in files:
                path = Path(where, file)
                with contextlib.suppress(FileNotFoundError):
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def read(self, name: str) -> bytes:
        """The object's bytes."""
        with _looking_at(self.root / name) as path:
            return path.read_bytes()

    def open(self, name: str) -> Any:
        """The object as a random-access file."""
        return pyarrow.OSFile(str(self.root / name))

    def size(self, name: str) -> int | None:
        """The object's size in bytes, or None."""
        try:
            with _looking_at(self.root / name) as path:
                status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def create(self, name: str, data: Any) -> bool:
        """Store an object unless its name is taken."""
        if self.size(name) is not None:
            return False
        with self._written_aside(name, data) as temporary:
            return self._name_new(temporary, self.root / name)

    def replace(self, name: str, data: Any) -> None:
        """Store an object, whatever was there before."""
        with self._written_aside(name, data) as temporary:
            os.replace(temporary, self.root / name)

    def link(self, name: str, path: Path) -> bool:
        """Give a file of this machine another name here; False where its disk is another one, or knows no links.

        What has the name already stays. The file is the one that symbolic links lead to. FileNotFoundError where there
        is no such file.
        """
        target = self.root / name
        try:
            self._make_folder(target.parent)
            try:
                os.link(os.path.realpath(path), target)
            except FileExistsError as error:
                if target.exists():
                    return True
                raise OutputError(f"{target}: expected a file or none, got a link that leads to nothing") from error
            except OSError as error:
                if error.errno in UNLINKED:
                    return False
                raise
            self._note(sync_path(target.parent))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _explain(error, target) from error
        return True

    def move(self, name: str, target: str) -> None:
        """Rename an object."""
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.root / name, self.root / target)

    def delete(self, name: str) -> None:
        """Remove an object."""
        (self.root / name).unlink(missing_ok=True)

    def list_unnamed(self) -> dict[str, float]:
        """Files that were written aside and have no name yet, and when."""
        found: dict[str, float] = {}
        for path in (self.root / TEMPORARY).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.stat().st_mtime
        return found

    def sweep(self, unnamed: Iterable[str]) -> None:
        """Remove these."""
        for name in unnamed:
            (self.root / TEMPORARY / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _written_aside(self, name: str, data: Any) -> Iterator[Path]:
        """The data in a synced temporary file, to be named; the name is synced, and the file gone, afterwards."""
        path = self.root / name
        temporary = self.root / name_aside(name)
        try:
            self._make_folder(temporary.parent)
            self._make_folder(path.parent)
            try:
                self._note(_write_synced(temporary, data))
                yield temporary
                self._note(sync_path(path.parent))
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise _explain(error, path) from error

    def _make_folder(self, folder: Path) -> None:
        """A folder survives a power cut once the one above it is synced."""
        if folder == self.root:
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            self._note(sync_path(folder.parent))

    def _note(self, is_synced: bool) -> None:
        if not is_synced:
            self.weaknesses.add(UNSYNCED)

    def _name_new(self, temporary: Path, target: Path) -> bool:
        """Give a file its name; False where that is taken.

        On a disk that knows no way to keep what is there, after a look, which writers on one machine take in turn: two
        on two machines may both succeed at the same moment, and what they write under one name is the same rows.
        """
        try:
            os.link(temporary, target)
        except OSError:
            if target.exists():
                return False
        else:
            return True
        is_new = _rename_new(temporary, target)
        if is_new is None:
            self.weaknesses.add(UNGUARDED)
            with _in_turn(temporary.parent):
                is_new = not target.exists()
                if is_new:
                    os.rename(temporary, target)
        return is_new


def list_weaknesses(store: Store) -> tuple[str, ...]:
    """What the store's disk was found not to keep, so far."""
    return tuple(sorted(store.weaknesses)) if isinstance(store, LocalStore) else ()


def _rename_new(temporary: Path, target: Path) -> bool | None:
    """Whether a file could take a name, which is not free otherwise; None where the system or the disk cannot tell."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return None
    if rename(AT_FDCWD, os.fsencode(temporary), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE) == 0:
        return True
    return False if ctypes.get_errno() == errno.EEXIST else None


@contextlib.contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """One writer at a time of those on this machine, where the disk knows locks; they end with their process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _looking_at(path: Path) -> Iterator[Path]:
    """That it is not there is for the caller to judge; whatever else keeps it from being read is an OutputError."""
    try:
        yield path
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _explain(error: OSError, path: Path) -> OutputError:
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
        return OutputError(f"{path}: the disk is full ({free / 1e6:.1f} MB free); make room and run the job again")
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")


def _write_synced(path: Path, data: Any) -> bool:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        return sync(file.fileno())
