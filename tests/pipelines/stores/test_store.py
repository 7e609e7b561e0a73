"""What every kind of store does with its objects, and the stand-in that the protocol is tested with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from pipelines.stores.store import LocalStore, RemoteStore, Store, open_store
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.stores.contents import names
from tests.pipelines.stores.sftp_server import make_sftp


@pytest.fixture(params=["memory", "local", "fsspec", "sftp", "subtree", "foreign"])
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
    elif request.param == "sftp":
        yield RemoteStore(pafs.PyFileSystem(pafs.FSSpecHandler(make_sftp())), str(tmp_path / "out[1]"))
    else:
        yield open_store(f"memory://{tmp_path.name}/out[1]")


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
