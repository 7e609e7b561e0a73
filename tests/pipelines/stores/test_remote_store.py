"""Outputs on other filesystems: objects appear whole or not at all, and what fails in passing is tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest

from pipelines.stores import retrying
from pipelines.stores.store import RemoteStore
from t5enc.errors import OutputError
from tests.pipelines.stores.contents import names
from tests.pipelines.stores.sftp_server import make_sftp


class Halfway:
    """A filesystem whose files have been written to when somebody looks, and are written on afterwards."""

    def __init__(self, filesystem: Any, look: Callable[[], None]) -> None:
        self.filesystem = filesystem
        self.look = look

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filesystem, name)

    def open_output_stream(self, path: str) -> Any:
        stream = self.filesystem.open_output_stream(path)
        write = stream.write

        def write_by_halves(data: bytes) -> None:
            write(data[:3])
            stream.flush()
            self.look()
            write(data[3:])

        return SimpleNamespace(write=write_by_halves, close=stream.close)


@pytest.mark.parametrize("kind", ["memory", "file", "dir", "sftp", "subtree", "arrow"])
def test_half_an_object_never_stands_under_its_name(kind: str, tmp_path: Path) -> None:
    local = pafs.LocalFileSystem()
    known: dict[str, Callable[[], Any]] = {
        "memory": lambda: fsspec.filesystem("memory"),
        "file": lambda: fsspec.filesystem("file"),
        "sftp": make_sftp,
        "dir": lambda: fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file")),
    }
    filesystem = pafs.SubTreeFileSystem(str(tmp_path), local) if kind == "subtree" else local
    if kind in known:
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(known[kind]()))
    store = RemoteStore(filesystem, "out" if kind in ("dir", "subtree") else f"{tmp_path}/out")
    seen: list[bytes | None] = []
    store.filesystem = Halfway(filesystem, lambda: seen.append(store.read("a/b") if store.size("a/b") else None))
    store.create("a/b", b"the first")
    store.replace("a/b", b"the second")
    assert seen == [None, b"the first"]
    assert store.read("a/b") == b"the second"
    assert names(store) == {"a/b"}
    assert store.list_unnamed() == {}


def test_a_remote_write_that_fails_is_an_output_error() -> None:
    class Refusing(pafs.FSSpecHandler):  # type: ignore[misc]
        def open_output_stream(self, path: str, metadata: Any) -> Any:
            raise PermissionError("access denied")

        def get_file_info(self, paths: list[str]) -> Any:
            raise OSError("no credentials")

    remote = RemoteStore(pafs.PyFileSystem(Refusing(fsspec.filesystem("memory"))), "bucket")
    with pytest.raises(OutputError, match="bucket/a: cannot be read or written: access denied"):
        remote.replace("a", b"x")
    with pytest.raises(OutputError, match="bucket/a: cannot be read or written: no credentials"):
        remote.size("a")


def test_a_remote_listing_is_never_an_old_one(tmp_path: Path) -> None:
    """fsspec keeps listings; others write meanwhile."""
    filesystem = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file"))
    forgotten: list[bool] = []
    filesystem.invalidate_cache = lambda *_: forgotten.append(True)
    list(RemoteStore(pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), "").list())
    assert forgotten == [True]


class Answer:
    """As much of an HTTP response as an error holds."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


def fail_first(filesystem: Any, name: str, *errors: Exception) -> None:
    """A method that raises these before it works."""
    left, real = list(errors), getattr(filesystem, name)

    def act(*args: Any, **options: Any) -> Any:
        if left:
            raise left.pop(0)
        return real(*args, **options)

    setattr(filesystem, name, act)


def say(status: int) -> OSError:
    error = OSError(f"the hub said {status}")
    error.response = Answer(status)  # type: ignore[attr-defined]
    return error


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteStore:
    """A store on a filesystem of fsspec, as the hub's is, with short waits."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    filesystem = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file"), skip_instance_cache=True)
    return RemoteStore(pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), "out")


def test_a_remote_filesystem_that_is_throttled_is_asked_again(hub: RemoteStore) -> None:
    fail_first(hub.filesystem.handler.fs, "open", say(429), ConnectionResetError("reset"), say(503))
    before = retrying.count_retries()
    hub.replace("a", b"whole")
    assert hub.read("a") == b"whole"
    assert retrying.count_retries() - before == 3


def test_a_refusal_of_a_remote_filesystem_is_told_at_once(hub: RemoteStore) -> None:
    fail_first(hub.filesystem.handler.fs, "open", say(403))
    before = retrying.count_retries()
    with pytest.raises(OutputError, match=r"out/a: cannot be read or written: the hub said 403"):
        hub.replace("a", b"whole")
    assert retrying.count_retries() == before


@pytest.mark.parametrize("client", ["httpx", "httpx2"])
def test_connections_that_the_hubs_client_loses_are_made_again(client: str, hub: RemoteStore) -> None:
    """Its errors are no OSError; and what is opened is read later, a part at a time."""
    http = pytest.importorskip(client, reason=f"needs {client}")
    hub.replace("a", b"0123456789")
    filesystem = hub.filesystem.handler.fs
    fail_first(filesystem, "open", http.ReadTimeout("silent"), http.RemoteProtocolError("closed"), say(412))
    fail_first(filesystem, "info", http.ConnectError("refused"))
    with hub.open("a") as file:
        assert file.read_at(3, 5) == b"567"
    fail_first(filesystem, "open", http.ReadError("reset"))
    assert hub.read("a") == b"0123456789"


def test_a_connection_that_stays_lost_is_an_output_error(hub: RemoteStore) -> None:
    http = pytest.importorskip("httpx2", reason="needs httpx2")
    hub.patience = 0.0
    hub.replace("a", b"whole")
    fail_first(hub.filesystem.handler.fs, "open", http.ReadTimeout("silent"))
    with pytest.raises(OutputError, match=r"out/a: cannot be read or written: silent"):
        hub.read("a")


def test_a_lost_connection_does_not_keep_an_object_that_is_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec's `exists` says no when it cannot ask."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    filesystem = make_sftp()
    store = RemoteStore(pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), f"{tmp_path}/out")
    store.replace("a", b"whole")
    fail_first(filesystem.ftp, "stat", ConnectionResetError("reset"))
    store.delete("a")
    assert names(store) == set()


def test_what_is_not_there_cannot_be_opened(hub: RemoteStore) -> None:
    with pytest.raises(FileNotFoundError):
        hub.open("a")


def test_what_was_not_written_whole_does_not_stay_under_its_name() -> None:
    """Closing is what makes an object of fsspec's appear, after a write that failed, too."""
    objects: dict[str, str] = {}

    class Torn:
        def write(self, data: bytes) -> None:
            raise OSError("no route to host")

        def close(self) -> None:
            objects["out/a"] = "half of it"

    filesystem = SimpleNamespace(
        type_name="py::another",
        create_dir=lambda path, recursive: None,
        get_file_info=lambda paths: [SimpleNamespace(is_file=path in objects, size=9) for path in paths],
        open_output_stream=lambda path: Torn(),
        delete_file=objects.pop,
    )
    with pytest.raises(OutputError, match="no route to host"):
        RemoteStore(filesystem, "out").create("a", b"all of it")
    assert objects == {}
