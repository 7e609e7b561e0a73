"""Outputs on a disk: objects appear whole or not at all, whoever is killed, and the first writer of a name wins."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow.fs as pafs
import pytest

from pipelines.stores import store as store_module
from pipelines.stores.store import LocalStore, RemoteStore, open_store
from t5enc.errors import OutputError
from t5enc.storage.layout import TEMPORARY
from tests.pipelines.stores.contents import files, names

WRITERS = 8
FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out")


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
        os.utime(tmp_path / TEMPORARY / "0.parquet.1234", times=(1e9, 2e9))
        assert store.list_unnamed()["0.parquet.1234"] == 2e9
        store.sweep(["0.parquet.1234", "gone.parquet.9abc"])
        assert files(tmp_path) == [f"{TEMPORARY}/1.parquet.5678", "a/0.parquet"]


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
    _record(monkeypatch, store_module, "sync_path", seen, lambda folder: folder.name)
    _record(monkeypatch, store_module, "_write_synced", seen, lambda path, _: path.stem)
    _record(monkeypatch, os, "link", seen, lambda _, target: target.stem)
    local.create("a/b/first.parquet", b"x")
    made = ["sync_path out", "sync_path _t5enc", "sync_path out", "sync_path a"]
    assert seen[:4] == made, "new folders, each in the one above it"
    assert seen[4:] == ["_write_synced first.parquet", "link first", "sync_path b"]
    seen.clear()
    local.create("a/b/second.parquet", b"x")
    assert seen == ["_write_synced second.parquet", "link second", "sync_path b"]


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
