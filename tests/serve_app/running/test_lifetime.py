"""`t5enc serve` from its start to its end: with Ray's own proxy, under a growing load, and when it is told to go."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx2
import pytest

from serve_app.client import Client
from tests.serve_app.running.service import MAX_BODY_BYTES, Service

pytestmark = [pytest.mark.own_service, pytest.mark.xdist_group("ray")]
LONG = " ".join(["a very long caption of birds over a lake"] * 100)


def send(service: Service, body: bytes, length: int | None = None) -> socket.socket:
    """A connection on which one request was sent, with a length that may not be true, and nothing was read."""
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length or len(body)}"
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    return connection


def read_line(connection: socket.socket) -> bytes:
    """The first line of the answer."""
    with connection, connection.makefile("rb") as answer:
        return answer.readline()


def read_load(service: Service) -> dict[str, Any]:
    """What waits and runs in one replica, and which it is."""
    answer = httpx2.get(service.url + "/stats", timeout=60).json()
    return {"replica": answer["replica"], **answer["models"]["builtin:tiny"]}


def test_rays_proxy_in_python_serves_as_well(start_service: Callable[..., Service]) -> None:
    started = start_service(environment={"RAY_SERVE_ENABLE_HA_PROXY": "0"})
    assert "(Ray's Python proxy, without keys, replicas 1)" in started.output[-1]
    assert len(Client(started.url).encode(["a red fox", "a cat"])) == 2
    assert read_line(send(started, b'{"inputs": "' + b"a" * MAX_BODY_BYTES + b'"}')).startswith(b"HTTP/1.1 413")
    assert read_line(send(started, b'{"inputs":', length=100)).startswith(b"HTTP/1.1 408")
    assert started.stop() == 0


def test_shutdown_answers_what_was_accepted(start_service: Callable[..., Service]) -> None:
    started = start_service("--max-length", "512", "--max-body-bytes", "4000000")
    connections = [send(started, make_work(number)) for number in range(16)]
    wait_until_busy(started)
    code = started.stop()
    assert {read_line(connection) for connection in connections} == {b"HTTP/1.1 200 OK\r\n"}
    assert code == 0


def make_work(number: int) -> bytes:
    """A request that keeps the model busy for long."""
    return json.dumps({"inputs": [f"{number} {index} {LONG}" for index in range(32)], "truncate": True}).encode()


def wait_until_busy(service: Service) -> None:
    """Returns at a moment at which a batch runs and others wait."""
    found = read_load(service)
    while not (found["running_tokens"] and found["queued_tokens"]):
        assert found["texts"] < 16 * 32, "all was computed before it was looked at"
        found = read_load(service)


def test_a_second_replica_comes_when_the_tokens_are_too_many_for_one(start_service: Callable[..., Service]) -> None:
    """And no request is lost while it does."""
    started = start_service("--replicas", "1:2", "--target-tokens", "64", settings="upscale_seconds: 0\n")
    assert len(started.replicas()) == 1
    with asking(started) as statuses:
        seen: set[str] = set()
        while len(seen) < 2 and statuses <= {200}:
            seen.add(read_load(started)["replica"])
    assert statuses == {200}
    assert len(started.replicas()) == 2


@contextmanager
def asking(service: Service) -> Iterator[set[int]]:
    """The statuses of what four clients ask for without a break, while the block runs."""
    statuses: set[int] = set()
    numbers, done = count(), threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            texts = [f"{next(numbers)} {LONG}" for _ in range(8)]
            body = {"inputs": texts, "truncate": True}
            statuses.add(httpx2.post(service.url + "/embed", json=body, timeout=60).status_code)

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(keep_asking) for _ in range(4)]
        try:
            yield statuses
        finally:
            done.set()
    for client in clients:
        client.result()
