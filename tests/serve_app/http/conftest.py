"""An application of its own for each test that counts requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve_app.http.metered_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.free.set()
