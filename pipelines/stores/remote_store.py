"""An output on any other filesystem: Hugging Face's hub, HDFS, or what fsspec knows.

One whole write makes an object appear, or, where a file grows under its name while it is written, a move does.
"""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import pyarrow.fs

from pipelines.stores.object_store import ObjectFile
from pipelines.stores.retrying import PASSING_STATUS, PATIENCE, retry
from t5enc.errors import OutputError
from t5enc.storage.layout import TEMPORARY

T = TypeVar("T")

# The hub's where another commit came between.
COLLIDED_STATUS = {409, 412}
# What the hub's client speaks HTTP with, by its version; their errors are none of Python's own.
HTTP_CLIENTS = ("httpx", "httpx2")
# Where a file is there from its first byte on, and a move replaces what has the name: as Arrow and fsspec call them.
# It does so in one step, but for HDFS, where Arrow deletes first: for a moment nothing has the name, and a process that
# is killed then leaves it so. Others, as FTP and SMB, grow too, but their moves may refuse a name that is taken.
GROWING = ("local", "hdfs", "file", "memory", "sftp", "ssh")


class RemoteStore:
    """A filesystem where one whole write makes an object appear, or a move of what was written aside.

    `create` looks before it writes: two writers at once may both write, and what they write under one name is the
    same rows.
    """

    def __init__(self, filesystem: Any, root: str, patience: float = PATIENCE) -> None:
        self.filesystem = filesystem
        self.root = root
        self.patience = patience
        self.is_growing = is_growing(filesystem)

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """(name, size) of every object, temporary ones apart."""
        for info in self._ask(folder, self._ask_for_all):
            name = info.path.lstrip("/").removeprefix(self.root.lstrip("/")).lstrip("/")
            if info.is_file and not name.startswith(f"{TEMPORARY}/"):
                yield name, info.size

    def read(self, name: str) -> bytes:
        """The object's bytes."""
        return self._ask(name, self._read)

    def open(self, name: str) -> Any:
        """The object as a random-access file, which asks for every part that is read."""
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(self._path(name))
        return pyarrow.PythonFile(ObjectFile(partial(self._read_range, name), size), mode="r")

    def size(self, name: str) -> int | None:
        """The object's size in bytes, or None."""
        info = self._ask(name, lambda path: self.filesystem.get_file_info([path])[0])
        return info.size if info.is_file else None

    def create(self, name: str, data: Any) -> bool:
        """Store an object unless its name is taken.

        Whoever finds it taken may sweep away what another is writing for it; that one looks again then.
        """
        if self.size(name) is not None:
            return False
        try:
            self._ask(name, partial(self._write, name, data))
        except (FileNotFoundError, OutputError) as error:
            if self.is_growing and self.size(name) is not None:
                return False
            if isinstance(error, OutputError):
                raise
            self.replace(name, data)
        return True

    def replace(self, name: str, data: Any) -> None:
        """Store an object, whatever was there before."""
        try:
            self._ask(name, partial(self._write, name, data))
        except FileNotFoundError as error:
            raise OutputError(f"{self._path(name)}: cannot be written: {error}") from error

    def move(self, name: str, target: str) -> None:
        """Rename an object."""
        with self._passed_over_where_gone(name):
            self._ask(target, partial(self._move, self._path(name)))

    def delete(self, name: str) -> None:
        """Remove an object."""
        with self._passed_over_where_gone(name):
            self._ask(name, self._delete)

    def list_unnamed(self) -> dict[str, float]:
        """Files that were written aside and have no name yet, and when; now where the filesystem does not say."""
        infos = self._ask(TEMPORARY, self._ask_for_all) if self.is_growing else []
        now = time.time()
        return {info.base_name: info.mtime.timestamp() if info.mtime else now for info in infos if info.is_file}

    def sweep(self, unnamed: Iterable[str]) -> None:
        """Remove these."""
        for name in unnamed:
            self.delete(f"{TEMPORARY}/{name}")

    def _ask_for_all(self, path: str) -> Any:
        _forget_listings(self.filesystem)
        selector = pyarrow.fs.FileSelector(path.rstrip("/"), recursive=True, allow_not_found=True)
        return self.filesystem.get_file_info(selector)

    def _read(self, path: str) -> bytes:
        with self.filesystem.open_input_file(path) as stream:
            return stream.read()  # type: ignore[no-any-return]

    def _read_range(self, name: str, start: int, length: int) -> bytes:
        def read(path: str) -> bytes:
            with self.filesystem.open_input_file(path) as file:
                return file.read_at(length, start)  # type: ignore[no-any-return]

        return self._ask(name, read)

    def _write(self, name: str, data: Any, path: str) -> None:
        if not self.is_growing:
            self._write_under(path, data)
            return
        aside = self._path(name_aside(name))
        try:
            self._write_under(aside, data)
            self._move(aside, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._delete(aside)
            raise

    def _write_under(self, path: str, data: Any) -> None:
        self._make_folder(path.rpartition("/")[0])
        stream = self.filesystem.open_output_stream(path)
        try:
            stream.write(data)
        except BaseException:
            self._discard(stream, path)
            raise
        stream.close()

    def _discard(self, stream: Any, path: str) -> None:
        """Closing is what makes an object appear, also one that was not written whole."""
        for undo in (stream.close, partial(self._delete, path)):
            with contextlib.suppress(Exception):
                undo()

    def _move(self, path: str, target: str) -> None:
        self._make_folder(target.rpartition("/")[0])
        known = _find_fsspec(self.filesystem)
        if known is None:
            self.filesystem.move(path, target)
        elif known.protocol == "memory":
            known.cp_file(path, target)  # its move takes `?`, `*` and `[` in a name for wildcards
            known.rm_file(path)
        else:
            known.mv(path, target)  # Arrow says `recursive`, too, which SFTP's does not take

    def _delete(self, path: str) -> None:
        known = _find_fsspec(self.filesystem)
        if known is None:
            self.filesystem.delete_file(path)
            return
        known.info(path)  # that a connection is lost is no sign that there is nothing, as `exists` would have it
        try:
            known.rm_file(path)
        except NotImplementedError:
            known.rm(path)  # which of others takes `?`, `*` and `[` in a path for wildcards

    @contextlib.contextmanager
    def _passed_over_where_gone(self, name: str) -> Iterator[None]:
        """What is not there need not be removed, and not every filesystem has FileNotFoundError for that."""
        try:
            yield
        except FileNotFoundError:
            pass
        except OutputError:
            if self.size(name) is not None:
                raise

    def _make_folder(self, folder: str) -> None:
        """A folder and those above it. Another may make one at that moment, which some filesystems call an error."""
        for _ in folder.split("/"):
            with contextlib.suppress(OSError):
                self._make_folders(folder)
                return
        self._make_folders(folder)

    def _make_folders(self, folder: str) -> None:
        known = _find_fsspec(self.filesystem)
        if known is None:
            self.filesystem.create_dir(folder, recursive=True)
        else:
            known.makedirs(folder, exist_ok=True)  # Arrow's `mkdir` fails on FTP and SMB where the folder is there

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _ask(self, name: str, request: Callable[[str], T]) -> T:
        """Make a request of a path, and again where that may help; errors in our words, but for what is not there."""
        path = self._path(name)
        try:
            return retry(partial(request, path), lambda error: self.patience if does_pass(error) else 0.0)
        except Exception as error:
            if isinstance(error, FileNotFoundError) or not isinstance(error, (OSError, *_list_losses())):
                raise
            raise OutputError(f"{path}: cannot be read or written: {error}") from error


def name_aside(name: str) -> str:
    """Where an object is written that a move, or a link, gives its name: it says whose it is, a shard's with its id."""
    return f"{TEMPORARY}/{name.rpartition('/')[2]}.{uuid.uuid4().hex}"


def is_growing(filesystem: Any) -> bool:
    """Whether it is one of those, or a folder of one."""
    if isinstance(filesystem, pyarrow.fs.SubTreeFileSystem):
        return is_growing(filesystem.base_fs)
    return not {filesystem.type_name, *_list_protocols(_find_fsspec(filesystem))}.isdisjoint(GROWING)


def _find_fsspec(filesystem: Any) -> Any:
    """The filesystem of fsspec that Arrow has been given, None for one of its own."""
    return getattr(getattr(filesystem, "handler", None), "fs", None)


def _list_protocols(filesystem: Any) -> tuple[str, ...]:
    """What fsspec calls it; for a folder of another, that one."""
    names = getattr(filesystem, "protocol", ())
    if names == "dir":
        return _list_protocols(filesystem.fs)
    return (names,) if isinstance(names, str) else tuple(names)


def does_pass(error: Exception) -> bool:
    """Whether an error of a filesystem is throttling, trouble of the server or a lost connection."""
    answer = getattr(error, "response", None)
    named = (getattr(answer, "status_code", None), getattr(error, "status", None), getattr(error, "code", None))
    status = next((value for value in named if isinstance(value, int)), None)
    return status in PASSING_STATUS | COLLIDED_STATUS if status is not None else isinstance(error, _list_losses())


def _list_losses() -> tuple[type[Exception], ...]:
    """The errors of lost connections; a client that was never loaded has raised none."""
    clients = [sys.modules[name] for name in HTTP_CLIENTS if name in sys.modules]
    return (ConnectionError, TimeoutError, *(client.TransportError for client in clients))


def _forget_listings(filesystem: Any) -> None:
    """A listing that fsspec kept from earlier does not show what others have written since."""
    if isinstance(filesystem, pyarrow.fs.PyFileSystem) and isinstance(filesystem.handler, pyarrow.fs.FSSpecHandler):
        filesystem.handler.fs.invalidate_cache()
