"""Long lists go in chunks, several at a time, and come back whole and in order."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.client import AsyncClient, Client
from serve_app.client.chunks import cut_chunks, guess_tokens
from serve_app.client.retries import Timing
from t5enc.errors import InputError
from tests.serve_app.client.conftest import TEXTS
from tests.serve_app.client.fake_time import FakeTime
from tests.serve_app.faulty_server import (
    BUSY,
    FaultyServer,
    answer_rightly,
    cut_body,
    encode_identity,
    read_back,
    refuse,
    reset,
    send,
    show_page,
    stall,
)


def test_big_lists_go_in_chunks_and_come_back_in_order(server: FaultyServer) -> None:
    texts = [f"text {number}" for number in range(100)]
    with Client(server.url, max_texts=7) as client:
        assert read_back(client.encode(texts)) == texts
    assert sorted(text for request in server.requests for text in request["texts"]) == sorted(texts)
    assert [len(request["texts"]) for request in server.requests].count(7) == 14


def test_a_server_that_dies_between_chunks_is_asked_for_what_is_left(server: FaultyServer, fake_time: FakeTime) -> None:
    server.script = [answer_rightly, cut_body, reset, show_page(502), show_page(404)]
    with Client(server.url, max_texts=1, parallel=1, timing=fake_time.timing) as client:
        assert read_back(client.encode(TEXTS)) == TEXTS
    assert [request["texts"] for request in server.requests] == [TEXTS[:1], *[TEXTS[1:2]] * 5, TEXTS[2:]]


def test_chunks_are_under_way_several_at_a_time(server: FaultyServer) -> None:
    together = threading.Barrier(3)

    def meet(handler: Any, content: dict[str, Any]) -> None:
        together.wait(timeout=60)
        send(encode_identity(content))(handler, content)

    server.script = [meet] * 6
    with Client(server.url, max_texts=1, parallel=3) as client:
        assert read_back(client.encode(list("abcdef"))) == list("abcdef")


def test_calls_that_share_one_connection_wait_for_it_in_their_own_time(
    server: FaultyServer, fake_time: FakeTime
) -> None:
    """Each answer takes ten of the twelve seconds that a call has."""

    def take_ten(handler: Any, content: dict[str, Any]) -> None:
        fake_time.now += 10.0
        answer_rightly(handler, content)

    async def crowd() -> list[Any]:
        async with AsyncClient(server.url, parallel=1, deadline=12.0, timing=fake_time.timing) as client:
            return await asyncio.gather(*(client.encode([letter]) for letter in "abcdefgh"))

    server.answer = take_ten
    assert [read_back(found) for found in asyncio.run(crowd())] == [[letter] for letter in "abcdefgh"]


def test_a_call_that_waits_to_try_again_holds_up_no_other(server: FaultyServer, fake_time: FakeTime) -> None:
    is_waiting, second = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        is_waiting.set()
        await second.wait()

    async def crowd() -> None:
        timing = Timing(clock=lambda: fake_time.now, sleep=sleep, random=lambda: 0.5)
        async with AsyncClient(server.url, parallel=1, timing=timing) as client:
            first = asyncio.create_task(client.encode(["a"]))
            await is_waiting.wait()
            assert read_back(await client.encode(["b"])) == ["b"]
            assert not first.done()
            second.set()
            assert read_back(await first) == ["a"]

    server.script = [refuse(503, BUSY)]
    asyncio.run(crowd())


@given(st.lists(st.integers(1, 50)), st.integers(1, 10), st.integers(1, 60))
def test_chunks_cover_all_texts_within_their_limits(sizes: list[int], max_texts: int, max_tokens: int) -> None:
    chunks = cut_chunks(sizes, max_texts=max_texts, max_tokens=max_tokens)
    assert [index for chunk in chunks for index in chunk] == list(range(len(sizes)))
    for chunk in chunks:
        assert 1 <= len(chunk) <= max_texts
        assert len(chunk) == 1 or sum(sizes[index] for index in chunk) <= max_tokens


def test_tokens_are_guessed_from_bytes() -> None:
    assert [guess_tokens(text) for text in ("", "four", "漢字漢字")] == [1, 2, 4]


def test_a_refused_chunk_is_named_and_ends_the_others(server: FaultyServer) -> None:
    server.script = [stall, refuse(422, {"error": "no"})]
    with Client(server.url, max_texts=2) as client, pytest.raises(InputError, match=r"texts \d to \d\): 422: no"):
        client.encode(list("abcd"))
