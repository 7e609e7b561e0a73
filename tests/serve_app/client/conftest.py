"""A server that misbehaves as told, and a client whose time is the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve_app.client import Client
from tests.serve_app.client.fake_time import FakeTime
from tests.serve_app.faulty_server import FaultyServer, run_faulty_server

TEXTS = ["a red fox", "", "two herons"]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with run_faulty_server() as faulty:
        yield faulty


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def client(server: FaultyServer, fake_time: FakeTime) -> Iterator[Client]:
    with Client(server.url, timing=fake_time.timing, deadline=60.0) as client:
        yield client
