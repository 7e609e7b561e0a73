"""Open shards: on a local disk, in a store that Arrow knows, or in one of fsspec's. All are read from many threads."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from t5enc.errors import OutputError

# Size, and what else tells a file from another of its name.
Stamp = tuple[int, str]
# The most buffers that one call of preadv takes.
MOST_BUFFERS = 1024


class OpenShard(Protocol):
    """A shard that is read at any place; `stamp` says what file it was when it was opened."""

    path: str
    stamp: Stamp

    def read_into(self, buffers: Sequence[NDArray[np.uint8]], offset: int) -> int:
        """Fill buffers, one after the other, from a place on; the bytes that were there."""

    def find_stamp(self) -> Stamp:
        """What file it is now, as far as that can be known without asking a store."""

    def open_parquet(self) -> pq.ParquetFile:
        """The shard as a Parquet file, to be closed."""


def open_shard(filesystem: Any, path: str) -> OpenShard:
    """A shard on a filesystem; OSError where it cannot be opened."""
    if isinstance(filesystem, pafs.LocalFileSystem) and hasattr(os, "preadv"):
        return LocalShard(path)
    handler = getattr(filesystem, "handler", None)
    if isinstance(handler, pafs.FSSpecHandler):
        return FsspecShard(handler.fs, path)
    return StoredShard(filesystem, path)


def check_stamp(shard: OpenShard, expected: Stamp) -> None:
    """OutputError where a shard is no longer the file that it was."""
    found = shard.find_stamp()
    if found != expected:
        raise OutputError(
            f"{shard.path}: changed since it was opened, when it had {expected[0]} bytes, got {found[0]}; "
            "open the dataset again when nothing writes there"
        )


class LocalShard:
    """A file descriptor, closed when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self.stamp = self.find_stamp()

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def find_stamp(self) -> Stamp:
        """By size, inode and time of the last change."""
        return _stamp_stat(os.fstat(self._descriptor))

    def read_into(self, buffers: Sequence[NDArray[np.uint8]], offset: int) -> int:
        """Straight into the buffers, as many as the system takes at once."""
        done = 0
        for first in range(0, len(buffers), MOST_BUFFERS):
            part = buffers[first : first + MOST_BUFFERS]
            size = sum(map(len, part))
            got = self._fill(part, size, offset + done)
            done += got
            if got < size:
                break
        return done

    def _fill(self, buffers: Sequence[NDArray[np.uint8]], size: int, offset: int) -> int:
        """A call may end early: after 2 GB, or at a signal."""
        done = 0
        rest: Sequence[Any] = buffers
        while done < size:
            got = os.preadv(self._descriptor, rest, offset + done)
            if got == 0:
                break
            done += got
            if done < size:
                rest = _skip(buffers, done)
        return done

    def open_parquet(self) -> pq.ParquetFile:
        """By its path, which must still be this file's."""
        if _stamp_stat(os.stat(self.path)) != self.stamp:
            raise OutputError(
                f"{self.path}: changed while it was read; open the dataset again when nothing writes there"
            )
        return pq.ParquetFile(self.path)


def _stamp_stat(found: os.stat_result) -> Stamp:
    return found.st_size, f"{found.st_ino} {found.st_mtime_ns}"


def _skip(buffers: Sequence[NDArray[np.uint8]], size: int) -> list[NDArray[np.uint8]]:
    """What is left of the buffers after so many bytes."""
    left = []
    for buffer in buffers:
        if size < len(buffer):
            left.append(buffer[size:])
        size = max(0, size - len(buffer))
    return left


class StoredShard:
    """An object of a store that Arrow knows: asked for its size once, and then by ranges."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self.path = path
        self._file = filesystem.open_input_file(path)
        self.stamp = (self._file.size(), _find_tag(self._file))

    def find_stamp(self) -> Stamp:
        """As it was opened."""
        return self.stamp

    def read_into(self, buffers: Sequence[NDArray[np.uint8]], offset: int) -> int:
        """One ranged request."""
        return _scatter(self._file.read_at(sum(map(len, buffers)), offset), buffers)

    def open_parquet(self) -> pq.ParquetFile:
        """Over the same object, with what lies near joined into one request."""
        return pq.ParquetFile(self._file, pre_buffer=True)


def _find_tag(file: Any) -> str:
    metadata = {name.lower(): value for name, value in (file.metadata() or {}).items()}
    tag = metadata.get(b"etag", metadata.get("etag", b""))
    return tag.decode() if isinstance(tag, bytes) else str(tag)


def _scatter(data: bytes, buffers: Sequence[NDArray[np.uint8]]) -> int:
    source, place = np.frombuffer(data, np.uint8), 0
    for buffer in buffers:
        part = source[place : place + len(buffer)]
        buffer[: len(part)] = part
        place += len(buffer)
    return len(source)


class FsspecShard:
    """A file of one of fsspec's filesystems, without the buffers that read far ahead."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self.path = path
        self._filesystem = filesystem
        info = filesystem.info(path)
        tags = (info[name] for name in ("ETag", "etag", "mtime", "LastModified", "last_modified") if info.get(name))
        self.stamp = (int(info["size"]), str(next(tags, "")))

    def find_stamp(self) -> Stamp:
        """As it was opened."""
        return self.stamp

    def read_into(self, buffers: Sequence[NDArray[np.uint8]], offset: int) -> int:
        """One ranged request."""
        return _scatter(self.read(sum(map(len, buffers)), offset), buffers)

    def read(self, size: int, offset: int) -> bytes:
        """Bytes from a place on, as far as there are."""
        stop = min(offset + size, self.stamp[0])
        return bytes(self._filesystem.cat_file(self.path, start=offset, end=stop)) if offset < stop else b""

    def open_parquet(self) -> pq.ParquetFile:
        """Over ranged requests."""
        return pq.ParquetFile(pa.PythonFile(_Ranges(self), mode="r"))


class _Ranges(io.RawIOBase):
    """A place in an FsspecShard, as Python's files have it."""

    def __init__(self, shard: FsspecShard) -> None:
        self.shard = shard
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.shard.stamp[0]}[whence]
        return self.place

    def read(self, size: int = -1) -> bytes:
        data = self.shard.read(self.shard.stamp[0] if size < 0 else size, self.place)
        self.place += len(data)
        return data
