"""What a running service survives: killed processes, clients that misbehave, bodies that nobody should send."""

from __future__ import annotations

import json
import re
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx2
import pytest

from tests.serve_app.in_process import post
from tests.serve_app.running.load import steady_load
from tests.serve_app.running.processes import (
    HAPROXY,
    MANAGER,
    PATIENCE,
    REPLICA,
    find_process,
    kill_and_await_another,
    wait_until,
)
from tests.serve_app.running.real_serve import MODEL
from tests.serve_app.running.service import KEY, Service

pytestmark = pytest.mark.xdist_group("ray")
HUGE = 100_000_000
MEBIBYTE = 1 << 20
# Above what a replica's memory moves by itself: arenas of the allocator, finished prompts that are kept.
ROOM = 96 * MEBIBYTE


def needs_process(service: Service, name: str) -> None:
    """Skip where the proxy is of another kind."""
    if find_process(service, name) is None:
        pytest.skip(f"needs Ray's HAProxy mode, which has a process {name}")


def read_load(service: Service) -> dict[str, Any]:
    """The model's figures in `/stats`."""
    answer = httpx2.get(f"{service.url}/stats", headers=service.headers, timeout=60).raise_for_status()
    return dict(answer.json()["models"][MODEL])


def is_idle(service: Service) -> bool:
    figures = read_load(service)
    return figures["queued_texts"] == figures["queued_tokens"] == figures["running_tokens"] == 0


def read_memory(service: Service) -> int:
    """Bytes that the replica has resident."""
    replica = find_process(service, REPLICA)
    assert replica is not None
    return int(replica.memory_info().rss)


@contextmanager
def comes_to_rest(service: Service) -> Iterator[None]:
    """After the block nothing waits or runs, the replica is the same, and its memory is about what it was."""
    before, process = read_memory(service), find_process(service, REPLICA)
    yield
    wait_until(lambda: is_idle(service), "the queue is not empty")
    wait_until(lambda: read_memory(service) < before + ROOM, f"the replica had {before} bytes, and keeps far more")
    assert find_process(service, REPLICA) == process


def open_request(service: Service, head: str, path: str = "/embed") -> socket.socket:
    """A connection on which a request's head was sent."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    lines = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    connection.sendall(f"{lines}Content-Type: application/json\r\n{head}\r\n\r\n".encode())
    return connection


def read_status(connection: socket.socket) -> int:
    """The status of the answer."""
    with connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


@pytest.mark.long
def test_a_replica_killed_under_load_is_no_error_to_clients_that_retry(service: Service) -> None:
    with steady_load(service) as load:
        for _ in range(2):
            kill_and_await_another(service, REPLICA)
            load.wait_for(20)


@pytest.mark.long
def test_haproxy_killed_under_load_is_no_error_to_clients_that_retry(service: Service) -> None:
    needs_process(service, HAPROXY)
    with steady_load(service) as load:
        for _ in range(2):
            kill_and_await_another(service, HAPROXY)
            load.wait_for(20)


@pytest.mark.long
def test_a_proxy_actor_killed_under_load_is_no_error_to_clients_that_retry(service: Service) -> None:
    needs_process(service, MANAGER)
    with steady_load(service) as load:
        kill_and_await_another(service, MANAGER)
        load.wait_for(20)


@pytest.mark.long
def test_hundreds_that_hang_up_leave_nothing_behind(service: Service) -> None:
    body = json.dumps({"inputs": [f"{count} herons that nobody waits for" for count in range(64)]})
    head = f"Content-Length: {len(body)}"
    with comes_to_rest(service), steady_load(service) as load:
        for number in range(300):
            with closing(open_request(service, head)) as connection:
                # Before, in the middle of, and after the body.
                connection.sendall(body[: (0, len(body) // 2, len(body))[number % 3]].encode())
        load.wait_for(20)


@pytest.mark.long
def test_slow_senders_by_the_dozen_hold_up_nobody(service: Service) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(open_request(service, "Content-Length: 1000"))) for _ in range(60)]
        with steady_load(service) as load:
            for connection in slow:
                connection.sendall(b'{"inputs":')
                load.wait_for(1)
            load.wait_for(20)
        assert Counter(map(read_status, slow)) == {408: len(slow)}


@pytest.mark.parametrize("is_chunked", [False, True])
def test_huge_bodies_are_refused_before_they_are_there(service: Service, is_chunked: bool) -> None:
    head = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {HUGE}"
    part = b"a" * MEBIBYTE
    block = b"%x\r\n%s\r\n" % (len(part), part) if is_chunked else part
    with comes_to_rest(service), steady_load(service) as load:
        for _ in range(20):
            with closing(open_request(service, head)) as connection:
                assert send_until_refused(connection, block) < HUGE // 2
                assert read_status(connection) == 413
        load.wait_for(20)


def send_until_refused(connection: socket.socket, block: bytes) -> int:
    """Send HUGE bytes as fast as they go; how many had gone when an answer came, or the other side closed."""
    connection.setblocking(False)
    sent = 0
    while sent < HUGE:
        answered, _, _ = select.select([connection], [connection], [], PATIENCE)
        if answered:
            break
        try:
            sent += connection.send(block[sent % len(block) :])
        except (BrokenPipeError, ConnectionResetError):
            break
    connection.settimeout(PATIENCE)
    return sent


PLANES = "".join(
    chr(plane << 16 | place) for plane in range(17) for place in (0x41, 0x300, 0x3042, 0xF600, 0xFFFD, 0xFFFE, 0xFFFF)
)
TEXTS = {
    "every plane": PLANES,
    "control characters": "".join(map(chr, [*range(32), *range(127, 160)])),
    "reversed and marked": "\ufeff\u202eabc\u200f" + "e" + "\u0301" * 5000,
    "one word": "a" * 190_000,
    "the model's own tokens": "</s><pad><unk><extra_id_0>" * 40,
    "half of a pair": "a fox \ud83e",
    "the wrong half": "\udd8a a fox",
    "white": " \t\n\u3000" * 100,
    "empty": "",
}
FIELDS = {"/": "inputs", "/embed": "inputs", "/embed_all": "inputs", "/tokenize": "inputs", "/encode": "texts",
          "/v1/embeddings": "input", "/decode": "ids"}  # fmt: skip
VALUES = {
    "ten thousand texts": ["a"] * 10_000,
    "sixty thousand ids": [1] * 60_000,
    "an id below": [[-1]],
    "an id above": [[1 << 31]],
    "an id far above": [[1 << 100]],
    "numbers that are none": [1.5, None, True],
    "mixed": ["a", 1, ["b"], {}],
    "nested": [[[1]]],
    "null": None,
    "nothing": [],
    "lists of nothing": [[], []],
}
BODIES = [
    b"", b"{", b"null", b"[]", b'"a"', b"\xff\xfe{\0}\0", b"\0" * 100, b"[" * 100_000, b'{"a":' * 20_000, b"NaN",
    b'{"inputs": "\xed\xa0\x80", "texts": ["\xed\xa0\x80"], "input": "\xed\xa0\x80"}', b'{"inputs": [1e999]}',
    b'{"inputs": "a", "model": "\\ud800", "texts": ["a"], "input": "a"}', b'{"inputs": {"source_sentence": 1}}',
]  # fmt: skip


def post_all(service: Service, path: str, bodies: list[bytes]) -> set[int]:
    """Statuses of the answers to bodies."""
    headers = service.headers | {"Content-Type": "application/json"}
    with httpx2.Client(base_url=service.url, headers=headers, timeout=60) as http:
        return {http.post(path, content=body).status_code for body in bodies}


@pytest.mark.parametrize("path", FIELDS)
def test_no_text_is_an_error_of_the_server(service: Service, path: str) -> None:
    bodies = [json.dumps({FIELDS[path]: [text]}).encode() for text in TEXTS.values()]
    with comes_to_rest(service):
        assert post_all(service, path, bodies) <= {200, 422}


@pytest.mark.parametrize("path", [*FIELDS, "/similarity"])
def test_no_body_is_an_error_of_the_server(service: Service, path: str) -> None:
    field = FIELDS.get(path, "inputs")
    bodies = [*BODIES, *(json.dumps({field: value}).encode() for value in VALUES.values())]
    with comes_to_rest(service):
        assert post_all(service, path, bodies) <= {200, 400, 404, 422}
        assert post_all(service, path, BODIES) <= {400, 404, 422}


@pytest.mark.parametrize("word", ["a", "ab1", "日", "word "])
@pytest.mark.parametrize("path", FIELDS)
def test_a_megabyte_of_one_word_is_no_error_of_the_server(path: str, word: str) -> None:
    answer = post(path, {FIELDS[path]: [word * ((1 << 20) // len(word.encode()))]}, accept="*/*")
    assert answer.status_code in (200, 422)


def read_requests(service: Service) -> Counter[str]:
    """Sums over routes of TEI's counters of requests, as Ray shows them now."""
    text = httpx2.get(service.metrics_url, timeout=60).raise_for_status().text
    found = re.findall(r"^ray_te_request_(count|success|failure)_total\{.*\} ([\d.e+]+)$", text, re.MULTILINE)
    sums: Counter[str] = Counter()
    for name, value in found:
        sums[name] += int(float(value))
    return sums


@pytest.mark.own_service
def test_requests_counted_are_those_answered_and_those_refused(start_service: Callable[..., Service]) -> None:
    service = start_service()
    post_all(service, "/embed", [b'{"inputs": "counted"}'] * 7 + [b'{"inputs": 5}'] * 4)
    post_all(service, "/v1/embeddings", [b"{", b'{"input": "a"}'])
    expected = Counter(count=13, success=8, failure=5)
    wait_until(lambda: read_requests(service) == expected, f"requests counted are not {expected}")


def test_what_was_counted_in_all_these_faults_adds_up(service: Service) -> None:
    def adds_up() -> bool:
        sums = read_requests(service)
        return sums["count"] == sums["success"] + sums["failure"] > 0

    wait_until(adds_up, "requests counted are not those answered and those refused")
