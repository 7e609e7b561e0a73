"""A real S3 server on loopback (moto's), and a proxy in front of it that fails as S3 does: as told, or by chance."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.http_servers import run_http_server

# In a process of its own: it is not to share the tests' warnings, nor their interpreter lock.
RUN = """
import logging, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>told to</Message></Error>'

Fault = Callable[["Handler", bytes], None]


@contextmanager
def run_s3_server() -> Iterator[str]:
    """The server's host and port, until the block ends."""
    process = subprocess.Popen([sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


@dataclass
class FaultyProxy:
    """`script` holds what is done with the next requests; when it is used up, `usual` is."""

    target: str
    usual: Fault
    host: str = ""
    script: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    writing: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, method: str, path: str) -> Fault:
        """What is done with this request."""
        with self.lock:
            self.requests.append((method, path))
            return self.script.pop(0) if self.script else self.usual

    def uri(self, bucket: str) -> str:
        """The root of a bucket without options, and the options."""
        return f"s3://{bucket}"

    @property
    def query(self) -> str:
        """What a URI needs to lead here."""
        return f"?scheme=http&endpoint_override={self.host}&region=us-east-1"


class Handler(BaseHTTPRequestHandler):
    """Reads a request and does with it what the proxy says."""

    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def handle(self) -> None:
        """One request after the other, until the client ends, is killed, or gives up."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def handle_request(self) -> None:
        """Any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.proxy.next_fault(self.command, self.path)(self, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def log_message(self, *_: Any) -> None:
        """Nothing: pytest shows what fails."""

    def ask(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """What the server answers. Writes go one by one: moto looks and writes in two steps, S3 in one."""
        connection = http.client.HTTPConnection(self.proxy.target, timeout=60)
        try:
            if self.command in ("GET", "HEAD"):
                return self._exchange(connection, body)
            with self.proxy.writing:
                return self._exchange(connection, body)
        finally:
            connection.close()

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()

    def reply(self, status: int, headers: Mapping[str, str], body: bytes, *, announced: int | None = None) -> None:
        """An answer; `announced` is the length that it claims to have."""
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        """A reset of the connection."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def answer(handler: Handler, body: bytes) -> None:
    """What the server says."""
    handler.reply(*handler.ask(body))


def answer_as_google(handler: Handler, body: bytes) -> None:
    """What the server says to a request in the words of Google's XML API, which is S3's but for a few headers."""
    headers = handler.headers
    if headers.get("x-goog-if-generation-match") == "0":
        headers["If-None-Match"] = "*"
    if "x-goog-copy-source" in headers:
        headers["x-amz-copy-source"] = headers["x-goog-copy-source"]
    del headers["Authorization"]
    headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/s3/aws4_request, Signature=none"
    status, said, content = handler.ask(body)
    handler.reply(status, {**said, "x-goog-generation": "1"}, content)


def refuse(status: int, code: str) -> Fault:
    """An error of S3's, and nothing is done."""
    content = ERROR.format(code=code).encode()
    return lambda handler, _: handler.reply(
        status, {"Content-Type": "application/xml"}, b"" if handler.command == "HEAD" else content
    )


SLOW_DOWN = refuse(503, "SlowDown")


def reset(handler: Handler, _: bytes) -> None:
    """No answer but a reset, and nothing is done."""
    handler.hang_up()


def lose(handler: Handler, body: bytes) -> None:
    """The server does it, and the answer is lost."""
    handler.ask(body)
    handler.hang_up()


def cut(handler: Handler, body: bytes) -> None:
    """Half of the answer's body, if it has one, then a reset."""
    status, headers, content = handler.ask(body)
    announced = len(content) if content else None
    handler.reply(status, headers, content[: len(content) // 2], announced=announced)
    handler.hang_up()


def hold(seconds: float) -> Fault:
    """No answer for so long, then the end of the connection."""

    def wait(handler: Handler, _: bytes) -> None:
        handler.proxy.released.wait(seconds)
        handler.hang_up()

    return wait


def by_chance(seed: int, rate: float, faults: Mapping[str, Fault]) -> Fault:
    """One of the faults in `rate` of the requests, drawn from a seed; the proxy counts them by name."""
    chance = random.Random(seed)

    def act(handler: Handler, body: bytes) -> None:
        with handler.proxy.lock:
            name = chance.choice(sorted(faults)) if chance.random() < rate else ""
            handler.proxy.done[name] += 1
        (faults[name] if name else answer)(handler, body)

    return act


@contextmanager
def run_faulty_proxy(target: str, usual: Fault = answer) -> Iterator[FaultyProxy]:
    """The proxy on a free port, until the block ends."""
    proxy = FaultyProxy(target, usual)
    with run_http_server(type("BoundHandler", (Handler,), {"proxy": proxy})) as proxy.host:
        try:
            yield proxy
        finally:
            proxy.released.set()


def connect(host: str) -> Any:
    """A client of another make, to look at what is there."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=f"http://{host}",
        region_name="us-east-1",
        aws_access_key_id="tests",
        aws_secret_access_key="tests",
    )
