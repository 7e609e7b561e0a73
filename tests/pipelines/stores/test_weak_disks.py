"""Disks that sync no folders, or have no links: an output is written all the same, and says what is weaker then."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from pipelines.stores import store as store_module
from pipelines.stores.store import UNGUARDED, UNSYNCED, LocalStore, list_weaknesses
from t5enc.errors import OutputError
from tests.pipelines.stores.contents import files

WRITERS = 8
Refuse = Callable[[int], None]


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out")


@pytest.fixture
def refuse_links(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    def refuse(number: int) -> None:
        def fail(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", fail)

    return refuse


@pytest.fixture
def refuse_syncs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def refuse(number: int, *, also_files: bool = False) -> None:
        plain = os.fsync

        def fail(descriptor: int) -> None:
            if also_files or stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            plain(descriptor)

        monkeypatch.setattr(os, "fsync", fail)

    return refuse


@pytest.mark.parametrize("also_files", [False, True])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EBADF])
def test_a_disk_that_syncs_no_folders_is_written_and_that_is_told(
    local: LocalStore, refuse_syncs: Callable[..., None], number: int, also_files: bool
) -> None:
    refuse_syncs(number, also_files=also_files)
    assert local.create("a/b", b"first")
    assert not local.create("a/b", b"second")
    local.replace("c", b"third")
    assert (local.read("a/b"), local.read("c")) == (b"first", b"third")
    assert list_weaknesses(local) == (UNSYNCED,)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_fails_is_no_refusal(local: LocalStore, refuse_syncs: Callable[..., None], number: int) -> None:
    refuse_syncs(number)
    with pytest.raises(OutputError):
        local.create("a/b", b"first")


def test_a_folder_that_may_not_be_listed_is_written(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    assert local.create("a/b", b"first")
    assert list_weaknesses(local) == (UNSYNCED,)


def test_a_disk_of_all_virtues_has_no_weakness(local: LocalStore) -> None:
    assert local.create("a/b", b"first")
    assert list_weaknesses(local) == ()


def can_rename_new(folder: Path) -> bool:
    (folder / "one").touch()
    return store_module._rename_new(folder / "one", folder / "two") is True


def race(local: LocalStore) -> None:
    """Have many writers create one name at the same moment, again and again: one of them does, and its bytes stay."""
    for name in map(str, range(20)):
        barrier = Barrier(WRITERS)

        def write(writer: int, name: str = name, barrier: Barrier = barrier) -> bool:
            barrier.wait()
            return local.create(name, str(writer).encode())

        with ThreadPoolExecutor(WRITERS) as pool:
            won = list(pool.map(write, range(WRITERS)))
        assert won.count(True) == 1
        assert local.read(name) == str(won.index(True)).encode()
    assert files(local.root) == sorted(map(str, range(20)))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_links_one_of_many_writers_creates_all_the_same(
    local: LocalStore, refuse_links: Refuse, monkeypatch: pytest.MonkeyPatch, number: int, tmp_path: Path
) -> None:
    if not can_rename_new(tmp_path):
        pytest.skip("needs renames that keep what is there (Linux, and most of its disks)")
    refuse_links(number)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # nobody's look is in time
    race(local)
    assert list_weaknesses(local) == ()


def test_without_links_and_such_renames_writers_of_one_machine_take_turns(
    local: LocalStore, refuse_links: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(errno.EPERM)
    monkeypatch.setattr(store_module, "_rename_new", lambda *_: None)
    race(local)
    assert list_weaknesses(local) == (UNGUARDED,)


def test_without_links_and_such_renames_a_look_decides_and_that_is_told(
    local: LocalStore, refuse_links: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(errno.EPERM)
    monkeypatch.setattr(store_module, "_rename_new", lambda *_: None)
    assert local.create("a/b", b"first")
    assert not local.create("a/b", b"second")
    monkeypatch.setattr(local, "size", lambda name: None)
    assert not local.create("a/b", b"third"), "another writer came between the look and the link"
    assert local.read("a/b") == b"first"
    assert files(local.root) == ["a/b"]
    assert list_weaknesses(local) == (UNGUARDED,)
