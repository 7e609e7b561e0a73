"""Stores: objects appear whole or not at all, and the first writer of a name wins."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest

from pipelines.stores import retrying
from pipelines.stores import store as store_module
from pipelines.stores.store import LocalStore, RemoteStore, Store, open_store
from t5enc.errors import OutputError
from t5enc.output import TEMPORARY
from tests.pipelines.commit.memory_store import MemoryStore

WRITERS = 8
FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(params=["memory", "local", "fsspec", "subtree", "foreign"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Every kind of store, and the stand-in that the protocol is tested with."""
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "local":
        yield open_store(str(tmp_path / "out"))
    elif request.param == "subtree":
        yield RemoteStore(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "out")
    elif request.param == "foreign":
        yield RemoteStore(pafs.LocalFileSystem(), str(tmp_path / "out"))
    else:
        yield open_store(f"memory://{tmp_path.name}/out")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out")


def names(store: Store) -> set[str]:
    return {name for name, _ in store.list()}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_store_that_is_empty_has_nothing(store: Store) -> None:
    assert names(store) == set()
    assert store.size("a") is None
    with pytest.raises(FileNotFoundError):
        store.read("a")
    with pytest.raises(FileNotFoundError):
        store.open("a")
    store.delete("a")


def test_create_stores_what_it_is_given_once(store: Store) -> None:
    assert store.create("a/b.parquet/1.parquet", b"first")
    assert not store.create("a/b.parquet/1.parquet", b"second")
    assert store.read("a/b.parquet/1.parquet") == b"first"
    assert dict(store.list()) == {"a/b.parquet/1.parquet": 5}
    assert store.size("a/b.parquet/1.parquet") == 5


def test_replace_stores_what_it_is_given_whatever_was_there(store: Store) -> None:
    store.replace("a", b"first")
    store.replace("a", memoryview(b"second one"))
    assert store.read("a") == b"second one"


def test_open_reads_a_part(store: Store) -> None:
    store.replace("a", bytes(range(100)))
    with store.open("a") as file:
        assert file.size() == 100
        assert file.read_at(3, 50) == b"\x32\x33\x34"


def test_move_and_delete_do_not_mind_what_is_gone(store: Store) -> None:
    store.create("a/b", b"x")
    store.move("a/b", "_stale/a/b.1")
    assert names(store) == {"_stale/a/b.1"}
    assert store.read("_stale/a/b.1") == b"x"
    if not isinstance(store, RemoteStore):
        store.move("a/b", "_stale/a/b.2")
    store.delete("_stale/a/b.1")
    store.delete("_stale/a/b.1")
    assert names(store) == set()


@pytest.mark.parametrize("name", ["sprache=über/日本 語.parquet/0-π.parquet", "100%/a b#?&.parquet", "x" * 120])
def test_names_are_taken_as_they_stand(store: Store, name: str) -> None:
    assert store.create(name, b"x")
    assert names(store) == {name}
    assert store.read(name) == b"x"


def test_a_folder_can_be_listed_by_itself(store: Store) -> None:
    for name in ("a/b", "a/c/d", "ab", "b/a/c"):
        store.create(name, b"x")
    assert {name for name, _ in store.list("a")} == {"a/b", "a/c/d"}
    assert list(store.list("nowhere")) == []


def test_a_folder_is_no_object(store: Store) -> None:
    store.create("a/b", b"x")
    assert store.size("a") is None


def test_a_local_folder_opens_as_a_local_store_and_a_uri_as_a_remote_one(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path)), LocalStore)
    assert isinstance(open_store(tmp_path.as_uri()), LocalStore)
    assert isinstance(open_store("memory://bucket"), RemoteStore)


def test_one_of_many_threads_creates(local: LocalStore) -> None:
    barrier = Barrier(WRITERS)

    def write(number: int) -> bool:
        barrier.wait()
        return local.create("a/b", str(number).encode() * 1000)

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, range(WRITERS)))
    assert won.count(True) == 1
    assert local.read("a/b") == str(won.index(True)).encode() * 1000
    assert files(local.root) == ["a/b"]


@FORKS
def test_one_of_several_processes_creates(local: LocalStore) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_race, args=(local, barrier, results, str(n))) for n in range(3)]
    for process in processes:
        process.start()
    won = dict(results.get() for _ in processes)
    for process in processes:
        process.join()
    assert [won[local.read(f"a/{round}").decode()][round] for round in range(20)] == [True] * 20
    assert sum(map(sum, won.values())) == 20


def _race(local: LocalStore, barrier: Any, results: Any, who: str) -> None:
    won = []
    for number in range(20):
        barrier.wait()
        won.append(local.create(f"a/{number}", who.encode()))
    results.put((who, won))


@FORKS
@pytest.mark.parametrize("step", ["open", "write", "fsync", "link"])
def test_a_writer_that_is_killed_leaves_nothing_but_a_temporary_file(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _die_at(monkeypatch, step)
    process = multiprocessing.get_context("fork").Process(target=local.create, args=("a/0.parquet", b"x" * 100))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert names(local) == set()
    assert all(name.startswith(TEMPORARY) for name in files(local.root))
    monkeypatch.undo()
    assert local.create("a/0.parquet", b"whole")
    assert local.read("a/0.parquet") == b"whole"


def _die_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def die(*_: Any) -> None:
        os._exit(9)

    if step == "open":
        monkeypatch.setattr(store_module, "_write_synced", die)
    elif step == "write":
        monkeypatch.setattr(store_module, "_write_synced", lambda path, data: (path.write_bytes(data[:3]), die()))
    else:
        monkeypatch.setattr(os, step, die)


def test_what_killed_writers_left_is_no_object_and_can_be_swept_away(tmp_path: Path) -> None:
    for store in (LocalStore(tmp_path), RemoteStore(pafs.LocalFileSystem(), str(tmp_path))):
        store.create("a/0.parquet", b"x")
        for name in ("0.parquet.1234", "1.parquet.5678"):
            (tmp_path / TEMPORARY / name).write_bytes(b"torn")
        assert names(store) == {"a/0.parquet"}
        assert sorted(store.list_unnamed()) == ["0.parquet.1234", "1.parquet.5678"]
        store.sweep(["0.parquet.1234", "gone.parquet.9abc"])
        assert files(tmp_path) == ["_tmp/1.parquet.5678", "a/0.parquet"]


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


@pytest.mark.parametrize("kind", ["memory", "file", "dir", "subtree", "arrow"])
def test_half_an_object_never_stands_under_its_name(kind: str, tmp_path: Path) -> None:
    local = pafs.LocalFileSystem()
    known: dict[str, Callable[[], Any]] = {
        "memory": lambda: fsspec.filesystem("memory"),
        "file": lambda: fsspec.filesystem("file"),
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
    assert store.list_unnamed() == []


def test_a_writer_whose_temporary_file_was_swept_away_finds_its_name_taken(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def sweep_and_link(source: Path, target: Path) -> None:
        LocalStore(local.root).replace("a/0.parquet", b"another's")
        local.sweep(local.list_unnamed())
        link(source, target)

    monkeypatch.setattr(os, "link", sweep_and_link)
    assert not local.create("a/0.parquet", b"late")
    assert local.read("a/0.parquet") == b"another's"


def test_data_are_synced_before_they_are_named_and_the_name_after(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    _record(monkeypatch, store_module, "_sync_folder", seen, lambda folder: folder.name)
    _record(monkeypatch, store_module, "_write_synced", seen, lambda path, _: path.stem)
    _record(monkeypatch, os, "link", seen, lambda _, target: target.stem)
    local.create("a/b/first.parquet", b"x")
    assert seen[:3] == ["_sync_folder out", "_sync_folder out", "_sync_folder a"], (
        "new folders, each in the one above it"
    )
    assert seen[3:] == ["_write_synced first.parquet", "link first", "_sync_folder b"]
    seen.clear()
    local.create("a/b/second.parquet", b"x")
    assert seen == ["_write_synced second.parquet", "link second", "_sync_folder b"]


def _record(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, seen: list[str], describe: Callable[..., str]
) -> None:
    real = getattr(module, name)

    def record(*args: Any) -> Any:
        seen.append(f"{name} {describe(*args)}")
        return real(*args)

    monkeypatch.setattr(module, name, record)


@pytest.mark.parametrize("write", [LocalStore.create, LocalStore.replace])
def test_a_full_disk_is_an_output_error_and_leaves_no_debris(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Any]
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"a/b: the disk is full \(.* MB free\); make room and run the job again"):
        write(local, "a/b", b"x")
    monkeypatch.undo()
    assert files(local.root) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_a_disk_that_fills_up_keeps_what_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size=256k tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        local = LocalStore(folder / "out")
        assert local.create("a/0.parquet", bytes(100_000))
        with pytest.raises(OutputError, match="the disk is full"):
            local.create("a/1.parquet", bytes(400_000))
        assert files(local.root) == ["a/0.parquet"]
    finally:
        os.system(f"umount {folder}")


def test_a_write_that_is_refused_is_an_output_error(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"a/b: cannot be written: Permission denied"):
        local.replace("a/b", b"x")


def test_an_output_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"out/_job.json: cannot be written: File exists"):
        open_store(str(tmp_path / "out")).create("_job.json", b"x")
    with pytest.raises(OutputError, match="cannot be written: File exists"):
        open_store(str(tmp_path / "out")).create("a/b", b"x")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_filesystem_without_links_is_written_all_the_same(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert local.create("a/b", b"first")
    assert not local.create("a/b", b"second")
    monkeypatch.setattr(local, "size", lambda name: None)
    assert not local.create("a/b", b"third"), "another writer came between the look and the link"
    assert local.read("a/b") == b"first"
    assert files(local.root) == ["a/b"]


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
