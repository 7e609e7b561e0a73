"""`t5enc serve` from its start to its end: with Ray's own proxy, under a growing load, and when it is told to go."""

from __future__ import annotations

import json
import os
import signal
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
from serve_app.config import ServeConfig
from serve_app.deploy.running import LOST_SECONDS, WATCH_PERIOD, count_cpus, interrupts, share_threads, watch
from t5enc.errors import ServiceError
from tests.serve_app.conftest import MAX_BODY_BYTES, Service

pytest.importorskip("ray.serve", reason="needs ray[serve]")
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


@pytest.mark.slow
def test_rays_proxy_in_python_serves_as_well(start_service: Callable[..., Service]) -> None:
    started = start_service(environment={"RAY_SERVE_ENABLE_HA_PROXY": "0"})
    assert "(Ray's Python proxy, without keys, replicas 1)" in started.output[-1]
    assert len(Client(started.url).encode(["a red fox", "a cat"])) == 2
    assert read_line(send(started, b'{"inputs": "' + b"a" * MAX_BODY_BYTES + b'"}')).startswith(b"HTTP/1.1 413")
    assert read_line(send(started, b'{"inputs":', length=100)).startswith(b"HTTP/1.1 408")
    assert started.stop() == 0


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_ray_is_told_of_as_many_cpus_as_all_replicas_want() -> None:
    asked = ServeConfig.from_mapping({"model": "builtin:tiny", "replicas": "1:40", "num_cpus": 1.5})
    assert count_cpus(asked) >= 60


def test_the_cores_of_the_machine_are_shared_by_the_replicas() -> None:
    cores = os.cpu_count() or 1
    alone = share_threads(ServeConfig.from_mapping({"model": "builtin:tiny", "device": "cpu"}))
    many = share_threads(ServeConfig.from_mapping({"model": "builtin:tiny", "device": "cpu", "replicas": "1:500"}))
    told = share_threads(ServeConfig.from_mapping({"model": "builtin:tiny", "device": "cpu", "num_threads": 7}))
    assert (alone.num_threads, many.num_threads, told.num_threads) == (cores, 1, 7)


def test_a_replica_elsewhere_uses_as_many_threads_as_it_was_given_cpus() -> None:
    config = ServeConfig.from_mapping({"model": "builtin:tiny", "num_cpus": 4})
    assert [options.num_threads for options in config.encoders().values()] == [4]


def look_at(status: str, replicas: dict[str, int], message: str = "") -> Any:
    """What Serve says of an application of one deployment."""
    from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatusOverview

    deployment = DeploymentStatusOverview("UNHEALTHY", "UNSPECIFIED", replicas, message)
    return ApplicationStatusOverview(ApplicationStatus(status), message, 0.0, {"t5enc": deployment})


def watch_until(found: list[Any], ends: type[BaseException]) -> tuple[float, str]:
    """Seconds for which the application was watched, found so at each look, and how that ended."""
    looks, slept = iter(found), [0.0]

    def look() -> Any:
        return next(looks, found[-1])

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 1000:
            raise KeyboardInterrupt

    with pytest.raises(ends) as end:
        watch(look, sleep, lambda: sum(slept))
    return sum(slept), str(end.value)


def test_an_application_that_is_given_up_or_gone_ends_the_service() -> None:
    seconds, words = watch_until(
        [look_at("RUNNING", {"RUNNING": 1}), look_at("DEPLOY_FAILED", {}, "no GPU")], ServiceError
    )
    assert (seconds, "got DEPLOY_FAILED and no replica that answers: no GPU" in words) == (WATCH_PERIOD, True)
    seconds, words = watch_until([look_at("RUNNING", {"RUNNING": 1}), None], ServiceError)
    assert (seconds, "got none" in words) == (WATCH_PERIOD, True)


def test_an_application_without_replicas_is_waited_for_and_not_for_ever() -> None:
    dead, alive = look_at("UNHEALTHY", {"STARTING": 1}, "it crashed"), look_at("RUNNING", {"RUNNING": 1})
    before = [dead] * 100 + [alive]
    seconds, words = watch_until([*before, dead], ServiceError)
    assert seconds == WATCH_PERIOD * len(before) + LOST_SECONDS
    assert "got UNHEALTHY and no replica that answers: it crashed" in words


def test_an_application_one_of_whose_replicas_answers_is_watched_until_a_signal() -> None:
    watch_until([look_at("UNHEALTHY", {"RUNNING": 1, "STARTING": 1})], KeyboardInterrupt)


def test_a_signal_ends_the_watch_at_once() -> None:
    """Also in the middle of a sleep that would take hours."""

    def sleep(seconds: float) -> None:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("expected the signal to interrupt")

    with interrupts(), pytest.raises(KeyboardInterrupt):
        watch(lambda: look_at("RUNNING", {"RUNNING": 1}), sleep)
