"""A store on S3, behind a proxy that fails as told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.stores import retrying
from pipelines.stores.object_store import ObjectStore
from pipelines.stores.store import open_store
from tests.pipelines.stores.s3_server import CREDENTIALS, FaultyProxy, connect, run_faulty_proxy


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
