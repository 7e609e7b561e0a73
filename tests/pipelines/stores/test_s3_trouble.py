"""Trouble with S3: what passes is outlasted, and what does not is told at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipelines.stores.object_store import ObjectStore
from pipelines.stores.retrying import count_retries
from pipelines.stores.store import open_store
from pipelines.stores.store_errors import Trouble
from t5enc.errors import OutputError
from tests.pipelines.stores.contents import names
from tests.pipelines.stores.s3_server import SLOW_DOWN, Fault, FaultyProxy, answer, cut, hold, lose, refuse, reset

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


def list_cases() -> list[tuple[str, str]]:
    """Faults and requests: an answer to HEAD has no body to say what a 400 is, and a timeout costs a second."""
    some = {
        "400": ("read", "list", "replace"),
        "hold": ("read", "create"),
        "cut": ("read", "open", "list", "move", "delete"),
    }
    return [(fault, name) for fault in PASSING for name in some.get(fault, tuple(REQUESTS))]


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
