"""Bodies: whole, under a cap and a deadline, or refused before anything else sees them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from serve_app.http.body_limits import LimitBodies

CAP = 10


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body it got in one piece."""
    message = await receive()
    assert not message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def call(
    parts: list[bytes | None], *, length: str | None = None, path: str = "/embed", method: str = "POST"
) -> tuple[int, Any]:
    """Status and body of the answer to a body in parts: b"" ends it, None is a client that is gone."""
    sent: list[Message] = []
    waiting = list(parts)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        part = waiting.pop(0)
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": part != b""}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", length.encode())] if length else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(LimitBodies(echo, max_bytes=CAP, seconds=0.05)(scope, receive, send))
    return (sent[0]["status"], sent[1]["body"]) if sent else (0, b"")


def test_a_body_in_parts_arrives_whole() -> None:
    assert call([b"01234", b"56789", b""]) == (200, b"0123456789")
    assert call([b""]) == (200, b"")


@pytest.mark.parametrize("parts", [[b"0123456789", b"x", b""], [b"01234567890"]])
def test_a_body_over_the_cap_is_refused_while_it_comes(parts: list[bytes | None]) -> None:
    status, body = call(parts)
    assert status == 413
    assert json.loads(body) == {"error": "body: expected at most 10 bytes, got more", "error_type": "Validation"}


def test_a_length_over_the_cap_is_refused_before_the_body_is_read() -> None:
    status, body = call([], length="11")
    assert status == 413
    assert json.loads(body)["error"] == "body: expected at most 10 bytes, got 11"


def test_a_length_of_very_many_digits_is_over_the_cap() -> None:
    assert call([], length="9" * 5000)[0] == 413
    assert call([b"0", b""], length="0" * 5000 + "1") == (200, b"0")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_gets_something_sends_no_body(method: str) -> None:
    assert call([b""], method=method) == (200, b"")
    assert call([b"x", b""], method=method)[0] == 413
    assert call([], length="1", method=method)[0] == 413


def test_a_body_that_does_not_end_is_refused_at_the_deadline() -> None:
    status, body = call([b"0"], path="/v1/embeddings")
    assert status == 408
    assert "within 0.05 seconds" in json.loads(body)["error"]["message"]


def test_a_client_that_is_gone_gets_no_answer() -> None:
    assert call([b"0", None]) == (0, b"")
