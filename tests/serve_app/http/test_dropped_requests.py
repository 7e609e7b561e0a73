"""Whoever leaves before the answer is there is counted as dropped, once, and what was asked for as not delivered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.types import Message, Send

from tests.serve_app.http.metered_server import HEADERS, Case, Server, check_sums


def test_overloaded_and_dropped_requests_add_up(server: Server) -> None:
    server.hold()

    async def crowd() -> None:
        running = asyncio.create_task(server.send(Case("/embed", {"inputs": "first"}, "single")))
        await asyncio.to_thread(server.inside.wait)
        batches = [[f"{number} {place}" for place in range(8)] for number in range(8)]
        waiting = [asyncio.create_task(server.send(Case("/embed", {"inputs": texts}, "batch"))) for texts in batches]
        await until(lambda: server.model.snapshot().queued_texts == 64)
        refused = [await server.send(Case("/embed", {"inputs": "one more"}, "overloaded")) for _ in range(3)]
        assert [answer.status_code for answer in refused] == [429] * 3
        assert 'te_queue_size{model="tiny"} 64.0' in server.metrics.render().decode()
        for leaving in waiting[:3]:
            leaving.cancel()
        await asyncio.wait(waiting[:3])
        server.free.set()
        assert [(await task).status_code for task in (running, *waiting[3:])] == [200] * 6

    asyncio.run(crowd())
    asyncio.run(hang_up(server.app))
    figures = server.read()
    ends = {("/embed", "single"): 1, ("/embed", "batch"): 5, ("/embed", "overloaded"): 3, ("/embed", "dropped"): 3}
    check_sums(figures, Counter(ends | {("none", "dropped"): 1}))
    # Texts that nobody waited for any more were asked for and not delivered.
    assert figures["te_embed_count_total"]["tiny",] == 1 + 8 * 8
    assert figures["te_embed_success_total"]["tiny",] == figures["te_batch_texts_total"]["tiny",] == 1 + 5 * 8
    assert figures["te_queue_size"]["tiny",] == 0


async def until(condition: Callable[[], bool]) -> None:
    """Let the others run until it holds."""
    while not condition():
        await asyncio.sleep(0)


class LeftError(OSError):
    """The connection is gone."""


@pytest.mark.parametrize("end", [LeftError, asyncio.CancelledError])
@pytest.mark.parametrize("part", ["http.response.start", "http.response.body"])
def test_whoever_leaves_before_the_answer_was_sent_is_dropped(server: Server, part: str, end: type[Exception]) -> None:
    async def leave(message: Message) -> None:
        if message["type"] == part:
            raise end

    with pytest.raises(end):
        asyncio.run(post_embed(server.app, leave))
    check_sums(server.read(), Counter({("/embed", "dropped"): 1}))


async def post_embed(app: FastAPI, send: Send) -> None:
    """A request whose body is there at once, and whose answer goes to `send`."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b'{"inputs": "a"}', "more_body": False}

    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    scope = {"type": "http", "method": "POST", "path": "/embed", "query_string": b"", "headers": headers}
    await app(scope, receive, send)


async def hang_up(app: FastAPI) -> None:
    """A client that is gone before its body is complete."""

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pytest.fail(f"expected no answer, got {message}")

    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    scope = {"type": "http", "method": "POST", "path": "/embed", "query_string": b"", "headers": headers}
    await app(scope, receive, send)
