"""A small HTTP server that answers `/encode` rightly, or as badly as it is told to.

Its embeddings are identities: every number of a token's row is the token's id, so that a mix-up shows.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import torch
from safetensors.torch import save

from tests.http_servers import run_http_server

DIM = 4
INFO = {
    "model_id": "identity",
    "served_model_name": "identity",
    "model_dtype": "float32",
    "model_dim": DIM,
    "fingerprint": "f1",
}
SAFETENSORS = "application/vnd.safetensors"
BUSY = {"error": "Model is overloaded", "error_type": "Overloaded"}

Behaviour = Callable[["Handler", dict[str, Any]], None]


@dataclass
class FaultyServer:
    """`script` holds what is done with the next requests; when it is used up, they get `answer`."""

    answer: Behaviour
    url: str = ""
    script: list[Behaviour] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_behaviour(self, content: dict[str, Any], key: str | None) -> Behaviour:
        """What is done with this request."""
        with self.lock:
            self.requests.append(content)
            self.keys.append(key)
            return self.script.pop(0) if self.script else self.answer


class Handler(BaseHTTPRequestHandler):
    """Reads a request and does what the script says."""

    protocol_version = "HTTP/1.1"
    faulty: FaultyServer

    def do_GET(self) -> None:
        """`/info`."""
        self.faulty.next_behaviour({}, self.headers.get("Authorization"))(self, {})

    def do_POST(self) -> None:
        """`/encode`."""
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.faulty.next_behaviour(content, self.headers.get("Authorization"))(self, content)

    def log_message(self, *_: Any) -> None:
        """Nothing: pytest shows what fails."""

    def reply(self, status: int, body: bytes, kind: str, *, length: int | None = None, **headers: str) -> None:
        """A whole answer; with `length`, one that claims to be that long."""
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        if length is not None:
            self.close_connection = True


def encode_identity(content: dict[str, Any], fingerprint: str = "f1") -> bytes:
    """What a right server answers; a text's ids are its characters' numbers."""
    ids = content["ids"] if "ids" in content else [[ord(letter) for letter in text] for text in content["texts"]]
    flat = torch.tensor([token for text in ids for token in text], dtype=torch.float32)
    lengths = torch.tensor([0, *map(len, ids)])
    tensors = {
        "values": flat[:, None].repeat(1, DIM),
        "offsets": lengths.cumsum(0),
        "truncated": torch.tensor([len(text) > 100 for text in ids]),
    }
    return save(tensors, metadata={"model": "identity", "fingerprint": fingerprint, "dtype": "float32"})


def read_back(embeddings: Any) -> list[str]:
    """The texts that identity embeddings were made of."""
    return ["".join(chr(int(row[0])) for row in text) for text in embeddings]


def answer_rightly(handler: Handler, content: dict[str, Any]) -> None:
    """200."""
    if handler.command == "GET":
        handler.reply(200, json.dumps(INFO).encode(), "application/json")
    else:
        handler.reply(200, encode_identity(content), SAFETENSORS)


def answer_as(fingerprint: str) -> Behaviour:
    """200, of other weights."""
    return lambda handler, content: handler.reply(200, encode_identity(content, fingerprint), SAFETENSORS)


def refuse(status: int, content: object, **headers: str) -> Behaviour:
    """An error in JSON."""
    return lambda handler, _: handler.reply(status, json.dumps(content).encode(), "application/json", **headers)


def show_page(status: int) -> Behaviour:
    """An error in HTML, as proxies show one."""
    page = b"<html><body><h1>Bad Gateway</h1>\n</body></html>"
    return lambda handler, _: handler.reply(status, page, "text/html")


def send(body: bytes, kind: str = SAFETENSORS) -> Behaviour:
    """200 with such a body."""
    return lambda handler, _: handler.reply(200, body, kind)


def close_early(handler: Handler, content: dict[str, Any]) -> None:
    """Half of the body that was announced, then the end of the connection."""
    body = encode_identity(content)
    handler.reply(200, body[: len(body) // 2], SAFETENSORS, length=len(body))


def cut_body(handler: Handler, content: dict[str, Any]) -> None:
    """Half of the body, announced as the whole: what a proxy makes of a server that died."""
    body = encode_identity(content)
    handler.reply(200, body[: len(body) // 2], SAFETENSORS)


def reset(handler: Handler, content: dict[str, Any]) -> None:
    """A reset in the middle of the body."""
    close_early(handler, content)
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def stall(handler: Handler, content: dict[str, Any]) -> None:
    """Half of the body, and the rest when the test is over."""
    body = encode_identity(content)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.faulty.released.wait()
    handler.close_connection = True


@contextmanager
def run_faulty_server(answer: Behaviour = answer_rightly) -> Iterator[FaultyServer]:
    """The server on a free port, until the block ends."""
    faulty = FaultyServer(answer)
    with run_http_server(type("BoundHandler", (Handler,), {"faulty": faulty})) as host:
        faulty.url = f"http://{host}"
        try:
            yield faulty
        finally:
            faulty.released.set()
