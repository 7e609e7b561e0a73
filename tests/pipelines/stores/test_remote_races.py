"""Other filesystems with several writers: folders that two make at once, and what one sweeps away of another's."""

from __future__ import annotations

import errno
import ftplib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipelines.stores.store import RemoteStore
from t5enc.errors import OutputError
from tests.pipelines.stores.contents import names
from tests.pipelines.stores.sftp_server import make_sftp


def open_remote(filesystem: Any, folder: Path) -> RemoteStore:
    if not isinstance(filesystem, pafs.FileSystem):
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))
    return RemoteStore(filesystem, str(folder / "out"))


class AsHdfs:
    """Files whose move or removal fails where they are gone, with an errno that does not say so."""

    def __init__(self) -> None:
        self.filesystem = pafs.LocalFileSystem()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filesystem, name)

    def move(self, path: str, target: str) -> None:
        self._check(path)
        self.filesystem.move(path, target)

    def delete_file(self, path: str) -> None:
        self._check(path)
        self.filesystem.delete_file(path)

    def _check(self, path: str) -> None:
        if not self.filesystem.get_file_info([path])[0].is_file:
            raise OSError(errno.EIO, "Rename failed, errno: 5 (Input/output error)")


def open_hdfs(folder: Path) -> RemoteStore:
    return RemoteStore(AsHdfs(), str(folder / "out"))


def before_moves(store: RemoteStore, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Act when an object has been written aside and is about to be moved, the first time."""
    left, move = [act], store._move

    def act_and_move(path: str, target: str) -> None:
        if left:
            left.pop()()
        move(path, target)

    monkeypatch.setattr(store, "_move", act_and_move)


OPENERS: dict[str, Callable[[Path], RemoteStore]] = {
    "memory": lambda folder: open_remote(fsspec.filesystem("memory"), folder),
    "sftp": lambda folder: open_remote(make_sftp(), folder),
    "arrow": lambda folder: open_remote(pafs.LocalFileSystem(), folder),
    "hdfs": open_hdfs,
}


@pytest.mark.parametrize("kind", OPENERS)
def test_a_writer_whose_file_another_sweeps_away_finds_its_name_taken(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, other = OPENERS[kind](tmp_path), OPENERS[kind](tmp_path)

    def finish_first() -> None:
        unnamed = other.list_unnamed()
        assert len(unnamed) == 1
        assert other.create("a/0.parquet", b"another's")
        other.sweep(unnamed)

    before_moves(late, finish_first, monkeypatch)
    assert not late.create("a/0.parquet", b"late")
    assert late.read("a/0.parquet") == b"another's"
    assert late.list_unnamed() == {}


@pytest.mark.parametrize("kind", ["memory", "sftp", "arrow"])
def test_a_writer_whose_file_is_swept_away_and_whose_name_is_free_writes_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = OPENERS[kind](tmp_path)
    before_moves(store, lambda: store.sweep(store.list_unnamed()), monkeypatch)
    assert store.create("a/0.parquet", b"mine")
    assert store.read("a/0.parquet") == b"mine"


@pytest.mark.parametrize("kind", OPENERS)
def test_what_is_being_written_is_not_old(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = OPENERS[kind](tmp_path)
    seen: list[float] = []
    before_moves(store, lambda: seen.extend(store.list_unnamed().values()), monkeypatch)
    before = time.time()
    store.create("a", b"x")
    (written,) = seen
    assert before - 2 < written < time.time() + 2


def test_a_file_that_is_replaced_and_swept_away_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = OPENERS["sftp"](tmp_path)
    before_moves(store, lambda: store.sweep(store.list_unnamed()), monkeypatch)
    with pytest.raises(OutputError, match="out/a: cannot be written"):
        store.replace("a", b"mine")


def test_what_is_gone_is_moved_and_deleted_without_an_error_whatever_the_filesystem_says(tmp_path: Path) -> None:
    store = open_hdfs(tmp_path)
    store.move("a", "_stale/a")
    store.delete("a")
    store.create("a", b"x")
    store.filesystem._check = lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "out of order"))
    for act in (lambda: store.move("a", "_stale/a"), lambda: store.delete("a")):
        with pytest.raises(OutputError, match="out of order"):
            act()
    assert names(store) == {"a"}


def test_a_folder_that_another_writer_makes_at_the_same_moment_is_no_error(tmp_path: Path) -> None:
    """An SFTP server says `Failure` of one that is there, at every level of it."""
    filesystem = make_sftp()
    make = filesystem.ftp.mkdir

    def make_after_another(path: str, mode: int) -> None:
        make(path, mode)
        make(path, mode)

    filesystem.ftp.mkdir = make_after_another
    store = open_remote(filesystem, tmp_path)
    assert store.create("a/b/c/0.parquet", b"x")
    assert names(store) == {"a/b/c/0.parquet"}


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    filesystem = make_sftp()
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(OutputError, match=r"out/a/b: cannot be read or written"):
        open_remote(filesystem, tmp_path).create("a/b", b"x")


def test_folders_that_are_there_are_no_error_of_ftp(tmp_path: Path) -> None:
    """Its `mkdir` says so by an error that is none of Python's own."""

    class AsFtp(LocalFileSystem):  # type: ignore[misc]
        protocol = "ftp"

        def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
            if self.exists(path):
                raise ftplib.error_perm("550 File exists")
            super().mkdir(path, create_parents=create_parents)

    store = open_remote(AsFtp(skip_instance_cache=True), tmp_path)
    assert [store.create(f"a/{number}", b"x") for number in range(2)] == [True, True]
