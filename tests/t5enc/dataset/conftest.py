"""An S3 server for stores, and a proxy that notes what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipelines.stores.s3_server import CREDENTIALS, FaultyProxy, run_faulty_proxy, run_s3_server


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The host and port of an S3 server."""
    with run_s3_server() as host:
        yield host


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy in front of the server, and an environment with credentials."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with run_faulty_proxy(server) as proxy:
        yield proxy
