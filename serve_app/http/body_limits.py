"""Bodies under a byte cap and a deadline: nothing downstream waits for a client that sends slowly, or without end."""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.http.replies import Failure, make_reply


class BodyTooLargeError(Exception):
    """A body is longer than the cap."""


class ClientGoneError(Exception):
    """The client closed the connection before its body was complete."""


class LimitBodies:
    """ASGI middleware that reads the whole body before anything else does: 413 over the cap, 408 past the deadline.

    A JSON body is held in memory whole in any case, so that reading it here costs nothing.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        """`seconds` is for the whole body, however steadily it trickles."""
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body read, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            # What is got needs no body, and may be got without a key.
            limit = 0 if scope["method"] in ("GET", "HEAD") else self._max_bytes
            check_length(scope, limit)
            async with asyncio.timeout(self._seconds):
                replay = _replay(await read_body(receive, limit), receive)
        except BodyTooLargeError as error:
            await _refuse(scope, 413, str(error))(scope, receive, send)
        except TimeoutError:
            message = f"body: expected all of it within {self._seconds:g} seconds, got only a part"
            await _refuse(scope, 408, message)(scope, receive, send)
        except ClientGoneError:
            return
        else:
            await self._app(scope, replay, send)


def check_length(scope: Scope, max_bytes: int) -> None:
    """BodyTooLargeError where the header already says so; one that is no number is left to the server."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and _is_above(value, max_bytes):
            raise BodyTooLargeError(f"body: expected at most {max_bytes} bytes, got {value[:20].decode()}")


def _is_above(digits: bytes, limit: int) -> bool:
    """Whether a number of any length is above a limit: Python refuses to read thousands of digits."""
    digits = digits.lstrip(b"0")
    return len(digits) > 20 or int(digits or b"0") > limit


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """All of a body; BodyTooLargeError as soon as it is over the cap, ClientGoneError where it ends early."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise BodyTooLargeError(f"body: expected at most {max_bytes} bytes, got more")
        if not message.get("more_body", False):
            return bytes(body)


def _refuse(scope: Scope, status: int, message: str) -> Response:
    """An error after which the connection is closed: what is left of the body is not read."""
    failure = Failure(status=status, kind="Validation", message=message, headers={"Connection": "close"})
    return make_reply(scope, failure)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, and then what still comes: that the client is gone."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
