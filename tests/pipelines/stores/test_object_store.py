"""Outputs on S3: the first writer wins, trouble that passes is outlasted, trouble that does not is told at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pytest

from pipelines.stores import object_store, retrying
from pipelines.stores.object_store import ObjectFile, ObjectStore
from pipelines.stores.retrying import count_retries
from pipelines.stores.store import open_store
from pipelines.stores.store_errors import Trouble
from t5enc.errors import OutputError
from t5enc.storage.filesystems import open_filesystem
from tests.pipelines.stores.s3_server import (
    CREDENTIALS,
    Fault,
    FaultyProxy,
    answer,
    connect,
    cut,
    hold,
    lose,
    refuse,
    reset,
    run_faulty_proxy,
)

REPOSITORY = Path(__file__).resolve().parents[3]
WRITERS = 8
SLOW_DOWN = refuse(503, "SlowDown")
PASSING: dict[str, Fault] = {
    "500": refuse(500, "InternalError"),
    "503": SLOW_DOWN,
    "504": refuse(504, "GatewayTimeout"),
    "429": refuse(429, "TooManyRequests"),
    "400": refuse(400, "RequestTimeout"),
    "reset": reset,
    "lose": lose,
    "cut": cut,
    "hold": hold(60),
}
Request = Callable[[ObjectStore], Any]
REQUESTS: dict[str, Request] = {
    "read": lambda store: store.read("a"),
    "open": lambda store: store.open("a").read(),
    "size": lambda store: store.size("a"),
    "list": lambda store: list(store.list()),
    "create": lambda store: store.create("b", b"new"),
    "replace": lambda store: store.replace("a", b"new"),
    "move": lambda store: store.move("a", "b"),
    "delete": lambda store: store.delete("a"),
}


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[FaultyProxy]:
    """A proxy in front of the server, and an environment with credentials; timeouts are short where they are tested."""
    timeout = "1s" if "hold" in request.node.name else "60s"
    for name, value in (CREDENTIALS | {"AWS_TIMEOUT": timeout}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    with run_faulty_proxy(server) as proxy:
        yield proxy


@pytest.fixture
def store(server: str, proxy: FaultyProxy, request: pytest.FixtureRequest) -> ObjectStore:
    """An empty prefix of a bucket."""
    connect(server).create_bucket(Bucket="bucket")
    store = open_store(f"s3://bucket/{request.node.name}/out{proxy.query}")
    assert isinstance(store, ObjectStore)
    store.delete("warm")  # the client is at work before any fault
    proxy.requests.clear()
    return store


def list_cases() -> list[tuple[str, str]]:
    """Faults and requests: an answer to HEAD has no body to say what a 400 is, and a timeout costs a second."""
    some = {
        "400": ("read", "list", "replace"),
        "hold": ("read", "create"),
        "cut": ("read", "open", "list", "move", "delete"),
    }
    return [(fault, name) for fault in PASSING for name in some.get(fault, tuple(REQUESTS))]


def names(store: ObjectStore) -> set[str]:
    return {name for name, _ in store.list()}


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


@pytest.mark.parametrize(("fault", "request_name"), list_cases())
def test_trouble_that_passes_is_outlasted(
    store: ObjectStore, proxy: FaultyProxy, fault: str, request_name: str
) -> None:
    store.replace("a", bytes(1000))
    expected = REQUESTS[request_name](store)
    store.delete("b")
    store.replace("a", bytes(1000))
    before = count_retries()
    proxy.script = [PASSING[fault]] * (1 if fault == "hold" else 3)
    got = REQUESTS[request_name](store)
    assert proxy.script == []
    # A put whose answer was lost finds its own object.
    assert got == expected or (request_name, fault, got) == ("create", "lose", False)
    assert count_retries() > before
    assert names(store) == {"create": {"a", "b"}, "move": {"b"}, "delete": set()}.get(request_name, {"a"})


def test_a_put_whose_answer_is_lost_is_there_once_and_counts_as_taken(store: ObjectStore, proxy: FaultyProxy) -> None:
    proxy.script = [answer, lose]
    assert not store.create("a", b"whole")
    assert store.read("a") == b"whole"


def test_a_conflict_that_left_nothing_is_tried_again(store: ObjectStore, proxy: FaultyProxy) -> None:
    """S3 answers 409 where another's delete is under way."""
    proxy.script = [answer, refuse(409, "ConditionalRequestConflict")]
    assert store.create("a", b"x")
    assert store.read("a") == b"x"


def test_patience_has_an_end(store: ObjectStore, proxy: FaultyProxy) -> None:
    patience = [1000.0, 1000.0, 0.0]
    impatient = ObjectStore(store.bucket, store.uri, patience=lambda trouble: patience.pop(0))
    proxy.usual = SLOW_DOWN
    with pytest.raises(OutputError, match=r"out/a: expected an answer after trying again .*, got 503 SlowDown"):
        impatient.read("a")
    assert len(proxy.requests) == 3


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", "expected leave to do this; see the credentials and the bucket's policy, got 403"),
        (401, "InvalidToken", "expected leave to do this; see the credentials"),
        (404, "NoSuchBucket", "expected a bucket that is there; make it, or mend its name, got 404 NoSuchBucket"),
        (400, "InvalidArgument", "expected a request that the store grants, got 400 InvalidArgument"),
        (301, "PermanentRedirect", "expected a request that the store grants, got .*region"),
    ],
)
@pytest.mark.parametrize("request_name", ["list", "replace", "read"])
def test_trouble_that_does_not_pass_is_told_at_once(
    store: ObjectStore, proxy: FaultyProxy, request_name: str, status: int, code: str, expected: str
) -> None:
    proxy.usual = refuse(status, code)
    with pytest.raises(OutputError, match=expected):
        REQUESTS[request_name](store)
    assert len(proxy.requests) == 1


def test_a_bucket_that_is_not_there_is_named(proxy: FaultyProxy) -> None:
    store = open_store(f"s3://no-such-bucket/out{proxy.query}")
    with pytest.raises(OutputError, match=r"^s3://no-such-bucket/out: expected a bucket that is there"):
        store.create("_job.json", b"{}")
    with pytest.raises(OutputError, match="expected a bucket that is there"):
        list(store.list())


def test_a_host_that_is_not_there_and_missing_credentials_are_told_soon() -> None:
    assert 0 < Trouble.UNREACHABLE.patience() < Trouble.PASSING.patience()
    assert 0 < Trouble.NO_CREDENTIALS.patience() < Trouble.PASSING.patience()


def test_an_address_where_nobody_listens_is_said_to_be_so(proxy: FaultyProxy) -> None:
    found = open_store("s3://bucket/out?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:9")
    assert isinstance(found, ObjectStore)
    with pytest.raises(OutputError, match="expected a store at its address; see the endpoint and the region"):
        ObjectStore(found.bucket, found.uri, patience=lambda trouble: 0.0).read("a")


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
