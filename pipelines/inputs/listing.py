"""What folders hold: files, folders, and what looks like an input and is none, with the reason.

Local disks are listed here. Arrow follows a link that leads back round and round, passes over one that leads to
nothing, and raises where a name is not UTF-8.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow.fs as pafs

from pipelines.inputs.names import escape

# Of a disk itself, and closed to all but its owner.
SYSTEM_FOLDERS = ("lost+found",)
KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, a folder, or for a `reason` neither; then `is_folder` says that it may have been meant to be one.

    Bytes of a local path that are no UTF-8 are surrogates. `modified` is when a file was written, in nanoseconds after
    1970, 0 where that is not known. `way` are the real paths of the folders that led to a local folder, itself
    included. One that `leads_back` is a link to one of these, or to what holds one: it has a reason where that holds
    other things, too.
    """

    path: str
    size: int | None = None
    modified: int = 0
    is_folder: bool = False
    leads_back: bool = False
    reason: str = ""
    way: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


class Lister(Protocol):
    """Lists a filesystem."""

    def find(self, path: str) -> Entry | None:
        """What a path leads to; None where that is nothing. OSError where it cannot be told."""

    def list(self, folder: Entry) -> Iterator[Entry]:
        """What a folder holds; the folder itself, with the reason, where it cannot be listed."""

    def resolve(self, path: str) -> str:
        """A path without links."""

    def walk(self, folder: Entry) -> Iterator[Entry]:
        """All below a folder that is no folder, but for hidden names; links that lead back are not followed."""


def find_lister(filesystem: Any) -> Lister:
    """Local disks are listed by the system, everything else by its filesystem."""
    return LocalLister() if isinstance(filesystem, pafs.LocalFileSystem) else RemoteLister(filesystem)


def is_hidden(name: str) -> bool:
    """Left-overs, markers and folders of the disk's own; `_key=value` is a partition all the same, as in Spark."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name in SYSTEM_FOLDERS


def path_below(path: str, root: str) -> str:
    """A path without its root."""
    return path.removeprefix(root).lstrip("/")


def encode_path(path: str) -> bytes:
    """A local path as the system has it, whatever its locale."""
    return path.encode("utf-8", "surrogateescape")


def decode_path(path: bytes) -> str:
    """The inverse of `encode_path`."""
    return path.decode("utf-8", "surrogateescape")


class LocalLister:
    """Lists disks of this machine."""

    def find(self, path: str) -> Entry | None:
        """What a path leads to, through links."""
        try:
            status = os.stat(encode_path(path))
        except (FileNotFoundError, NotADirectoryError):
            return _lead_nowhere(path) if os.path.islink(encode_path(path)) else None
        if stat.S_ISDIR(status.st_mode):
            return Entry(path=path, is_folder=True, way=(_resolve(path),))
        return _file_or_other(path, status)

    def list(self, folder: Entry) -> Iterator[Entry]:
        """What a folder holds."""
        try:
            with os.scandir(encode_path(folder.path)) as found:
                names = list(found)
        except OSError as error:
            yield Entry(path=folder.path, is_folder=True, reason=_expected("a folder that can be listed", error))
            return
        for name in names:
            yield _look_at(name, f"{folder.path.rstrip('/')}/{decode_path(name.name)}", folder)

    def resolve(self, path: str) -> str:
        """A path without links."""
        return _resolve(path)

    def walk(self, folder: Entry) -> Iterator[Entry]:
        """All below a folder."""
        waiting = [folder]
        while waiting:
            for entry in self.list(waiting.pop()):
                if entry.is_folder and not entry.reason and not entry.leads_back and not is_hidden(entry.name):
                    waiting.append(entry)
                elif not is_hidden(entry.name) and (entry.reason or not entry.leads_back):
                    yield entry


def _look_at(found: os.DirEntry[bytes], path: str, folder: Entry) -> Entry:
    try:
        if found.is_symlink():
            return _follow(path, folder)
        if found.is_dir(follow_symlinks=False):
            return Entry(path=path, is_folder=True, way=(*folder.way, _join(folder.way[-1], decode_path(found.name))))
        return _file_or_other(path, found.stat(follow_symlinks=False))
    except OSError as error:
        return Entry(path=path, is_folder=_may_be_folder(path), reason=_expected("a file or a folder", error))


def _follow(path: str, folder: Entry) -> Entry:
    try:
        status = os.stat(encode_path(path))
    except (FileNotFoundError, NotADirectoryError):
        return _lead_nowhere(path)
    if not stat.S_ISDIR(status.st_mode):
        return _file_or_other(path, status)
    real = _resolve(path)
    if not any(holds(real, place) for place in folder.way):
        return Entry(path=path, is_folder=True, way=(*folder.way, real))
    is_read_anyway = any(holds(place, real) for place in folder.way)
    reason = (
        "" if is_read_anyway else f"expected a file or a folder, got a link to {escape(real)}, which holds this folder"
    )
    return Entry(path=path, is_folder=True, leads_back=True, reason=reason, way=(real,))


def _file_or_other(path: str, status: os.stat_result) -> Entry:
    if stat.S_ISREG(status.st_mode):
        return Entry(path=path, size=status.st_size, modified=status.st_mtime_ns)
    return Entry(path=path, reason=f"expected a file, got {KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}")


def _lead_nowhere(path: str) -> Entry:
    target = escape(decode_path(os.readlink(encode_path(path))))
    reason = f"expected a file or a folder, got a link to {target}, where there is nothing"
    return Entry(path=path, is_folder=_may_be_folder(path), reason=reason)


def _may_be_folder(path: str) -> bool:
    return "." not in path.rpartition("/")[2]


def _expected(what: str, error: OSError) -> str:
    return f"expected {what}, got: {error.strerror or error}"


def _resolve(path: str) -> str:
    return decode_path(os.path.realpath(encode_path(path)))


def holds(folder: str, place: str) -> bool:
    """Whether a folder is a place, or has it somewhere below."""
    return f"{place}/".startswith(f"{folder.rstrip('/')}/")


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


class RemoteLister:
    """Lists a filesystem that is none of this machine's disks, and may answer for a whole tree at once."""

    def __init__(self, filesystem: Any) -> None:
        self.filesystem = filesystem

    def find(self, path: str) -> Entry | None:
        """What a path leads to."""
        info = self.filesystem.get_file_info(path)
        return None if info.type == pafs.FileType.NotFound else _read_info(info)

    def list(self, folder: Entry) -> Iterator[Entry]:
        """What a folder holds."""
        return self._select(folder, recursive=False)

    def resolve(self, path: str) -> str:
        """The path: only a disk of this machine has links."""
        return path

    def walk(self, folder: Entry) -> Iterator[Entry]:
        """All below a folder."""
        for entry in self._select(folder, recursive=True):
            names = path_below(entry.path, folder.path).split("/")
            if (entry.reason or not entry.is_folder) and not any(map(is_hidden, names)):
                yield entry

    def _select(self, folder: Entry, *, recursive: bool) -> Iterator[Entry]:
        try:
            infos = self.filesystem.get_file_info(pafs.FileSelector(folder.path, recursive=recursive))
        except OSError as error:
            reason = f"expected a folder that can be listed, got: {error}"
            yield Entry(path=folder.path, is_folder=True, reason=reason)
            return
        yield from map(_read_info, infos)


def _read_info(info: Any) -> Entry:
    if info.type == pafs.FileType.Directory:
        return Entry(path=info.path, is_folder=True)
    reason = "" if info.is_file else "expected a file or a folder, got neither"
    return Entry(path=info.path, size=info.size, modified=info.mtime_ns or 0, reason=reason)
