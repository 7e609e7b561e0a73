"""Outputs on S3: the first writer wins, and what is large goes and comes in parts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pytest

from pipelines.stores import object_store
from pipelines.stores.object_store import ObjectFile, ObjectStore
from pipelines.stores.store import open_store
from t5enc.errors import OutputError
from t5enc.storage.filesystems import open_filesystem
from tests.pipelines.stores.contents import names
from tests.pipelines.stores.s3_server import SLOW_DOWN, FaultyProxy, answer, connect, cut, refuse, reset

REPOSITORY = Path(__file__).resolve().parents[3]
WRITERS = 8


def test_one_of_many_threads_creates(store: ObjectStore) -> None:
    barrier = Barrier(WRITERS)

    def write(number: int) -> bool:
        barrier.wait()
        return store.create("a/b", str(number).encode() * 1000)

    for _ in range(5):
        with ThreadPoolExecutor(WRITERS) as pool:
            won = list(pool.map(write, range(WRITERS)))
        assert won.count(True) == 1
        assert store.read("a/b") == str(won.index(True)).encode() * 1000
        store.delete("a/b")


def test_the_store_itself_keeps_the_first_object(store: ObjectStore, proxy: FaultyProxy) -> None:
    """Also where another writer comes between the look and the put."""
    store.replace("a", b"first")
    proxy.script = [refuse(404, "NoSuchKey")]
    assert not store.create("a", b"second")
    assert store.read("a") == b"first"


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, pa.py_buffer])
def test_any_bytes_are_stored(store: ObjectStore, make: Callable[[bytes], Any]) -> None:
    assert store.create("a", make(b"first"))
    store.replace("b", make(b"second"))
    assert (store.read("a"), store.read("b")) == (b"first", b"second")


def test_a_name_that_is_taken_is_not_sent_data(store: ObjectStore, proxy: FaultyProxy) -> None:
    store.replace("a", b"first")
    proxy.requests.clear()
    assert not store.create("a", bytes(1000))
    assert [method for method, _ in proxy.requests] == ["HEAD"]


def test_a_store_without_conditional_puts_is_written_all_the_same_and_says_so(
    store: ObjectStore, proxy: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.script = [answer, refuse(501, "NotImplemented")]
    with caplog.at_level(logging.WARNING):
        assert store.create("a", b"first")
    assert [record.getMessage() for record in caplog.records] == [
        f"{store.uri}: knows no conditional put; of two writers at one moment, the second wins"
    ]
    assert not store.create("a", b"second")
    assert store.create("b", b"third")
    assert store.read("a") == b"first"
    assert len(caplog.records) == 1


def test_a_large_object_goes_up_in_parts(
    store: ObjectStore, proxy: FaultyProxy, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "PUT_BYTES", 1 << 20)
    monkeypatch.setattr(object_store, "PART_BYTES", 5 << 20)
    data = bytes(range(256)) * (12 << 12)
    store.replace("a", data)
    assert sum("partNumber" in path for _, path in proxy.requests) == 3
    assert store.read("a") == data


def test_parts_of_an_upload_that_fails_are_not_kept(
    store: ObjectStore, proxy: FaultyProxy, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "PUT_BYTES", 1 << 20)
    monkeypatch.setattr(object_store, "PART_BYTES", 5 << 20)
    proxy.script = [answer, answer, refuse(403, "AccessDenied")]
    with pytest.raises(OutputError, match="expected leave to do this"):
        store.replace("a", bytes(12 << 20))
    assert names(store) == set()
    assert "Uploads" not in connect(server).list_multipart_uploads(Bucket="bucket")


def test_a_listing_of_many_pages_goes_on_where_it_broke(
    store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "PAGE", 7)
    for number in range(20):
        store.replace(f"a/{number:02d}", b"x" * number)
    proxy.script = [answer, SLOW_DOWN, answer, cut]
    assert list(store.list()) == [(f"a/{number:02d}", number) for number in range(20)]


def test_an_object_is_read_in_parts(store: ObjectStore, proxy: FaultyProxy) -> None:
    data = bytes(range(256)) * 100
    store.replace("a", data)
    with store.open("a") as file:
        assert file.size() == len(data)
        proxy.script = [SLOW_DOWN, cut, reset]
        assert file.read_at(300, 1000) == data[1000:1300]
        assert file.read_at(300, len(data) - 5) == data[-5:]
        file.seek(0)
        assert file.read() == data


def test_a_file_of_parts_goes_where_it_is_told() -> None:
    data = bytes(range(100))
    file = ObjectFile(lambda start, length: data[start : start + length], 100)
    assert (file.readable(), file.seekable(), file.seek(-10, 2), file.seek(5, 1), file.tell()) == (
        True,
        True,
        90,
        95,
        95,
    )
    assert (file.read(3), file.read(), file.read(), file.seek(200), file.read(1)) == (
        data[95:98],
        data[98:],
        b"",
        200,
        b"",
    )


@pytest.mark.parametrize("name", ["out put/ü%20", "100%/a&b", "a=b/c+d"])
def test_a_uri_means_the_same_to_writers_and_readers(
    store: ObjectStore, proxy: FaultyProxy, name: str, tmp_path: Path
) -> None:
    uri = f"s3://bucket/{name}{proxy.query}"
    open_store(uri).create("a/b c#?.txt", b"whole")
    filesystem, root = open_filesystem(uri)
    with filesystem.open_input_file(f"{root}/a/b c#?.txt") as stream:
        assert stream.read() == b"whole"


def test_the_rule_for_uploads_of_killed_writers_is_one_that_s3_takes(server: str) -> None:
    rule = json.loads((REPOSITORY / "cluster" / "s3-lifecycle.json").read_text())
    client = connect(server)
    client.create_bucket(Bucket="ruled")
    client.put_bucket_lifecycle_configuration(Bucket="ruled", LifecycleConfiguration=rule)
    (kept,) = client.get_bucket_lifecycle_configuration(Bucket="ruled")["Rules"]
    assert kept["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    assert kept["Status"] == "Enabled"
