"""What fails in passing is tried again, after waits that grow, until the deadline."""

from __future__ import annotations

import pytest

from serve_app.client import Client
from t5enc.errors import OverloadedError, ServiceError
from tests.serve_app.client.conftest import TEXTS
from tests.serve_app.client.fake_time import FakeTime
from tests.serve_app.faulty_server import (
    BUSY,
    Behaviour,
    FaultyServer,
    close_early,
    cut_body,
    read_back,
    refuse,
    reset,
    run_faulty_server,
    send,
    show_page,
    stall,
)


@pytest.mark.parametrize(
    "fault",
    [
        refuse(429, BUSY),
        refuse(503, {"error": "unhealthy", "error_type": "Unhealthy"}),
        refuse(408, {"error": "too slow"}),
        show_page(404),
        show_page(500),
        show_page(502),
        show_page(504),
        show_page(200),
        close_early,
        cut_body,
        reset,
        send(b""),
    ],
    ids=[
        "429", "503", "408", "404 page", "500 page", "502 page", "504 page", "200 page", "closed", "cut", "reset",
        "empty",
    ],
)  # fmt: skip
def test_what_fails_in_passing_is_tried_again(
    client: Client, server: FaultyServer, fake_time: FakeTime, fault: Behaviour
) -> None:
    server.script = [fault, fault]
    assert read_back(client.encode(TEXTS)) == TEXTS
    assert len(server.requests) == 3
    assert fake_time.waits == [0.125, 0.25]


def test_waits_double_up_to_a_limit_and_are_drawn_from_zero(
    client: Client, server: FaultyServer, fake_time: FakeTime
) -> None:
    server.script = [show_page(502)] * 8
    client.encode(TEXTS)
    assert fake_time.waits == [0.125, 0.25, 0.5, 1, 2, 4, 4, 4]
    fake_time.dice = 0.0
    server.script = [show_page(502)]
    client.encode(TEXTS)
    assert fake_time.waits[-1] == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7.125),
        ({"Retry_After": "0.5"}, 0.625),
        ({"Retry_After": "Tue, 24 Nov 2026 10:00:09 GMT", "Date": "Tue, 24 Nov 2026 10:00:00 GMT"}, 9.125),
        ({"Retry_After": "soon"}, 0.125),
        ({"Retry_After": "-5"}, 0.125),
        ({"Retry_After": "inf"}, 0.125),
    ],
)
def test_retry_after_comes_on_top_of_the_wait(
    client: Client, server: FaultyServer, fake_time: FakeTime, headers: dict[str, str], seconds: float
) -> None:
    server.script = [refuse(429, BUSY, **headers)]
    client.encode(TEXTS)
    assert fake_time.waits == [pytest.approx(seconds)]


def test_a_server_that_stays_overloaded_is_given_up_at_the_deadline(
    client: Client, server: FaultyServer, fake_time: FakeTime
) -> None:
    server.script = [refuse(429, BUSY, Retry_After="25")] * 9
    with pytest.raises(OverloadedError, match=r"3 attempt.* deadline of 60 s; 429: Model is overloaded") as caught:
        client.encode(TEXTS)
    assert caught.value.retry_after == 25
    assert fake_time.now <= 1060


def test_a_wait_past_the_deadline_is_not_waited(client: Client, server: FaultyServer, fake_time: FakeTime) -> None:
    server.script = [refuse(503, BUSY, Retry_After="3600")]
    with pytest.raises(OverloadedError):
        client.encode(TEXTS)
    assert fake_time.waits == []


def test_a_server_that_stays_broken_is_named_with_what_it_said(client: Client, server: FaultyServer) -> None:
    server.script = [show_page(502)] * 100
    with pytest.raises(ServiceError, match=r"POST .*/encode \(texts 0 to 2\): .* the last: 502: <html>.*Bad Gateway"):
        client.encode(TEXTS)


def test_an_address_where_no_service_is_found_is_given_up_long_before_the_deadline(
    client: Client, server: FaultyServer, fake_time: FakeTime
) -> None:
    server.script = [*[show_page(502)] * 8, *[show_page(404)] * 100]
    with pytest.raises(ServiceError, match=r"12 attempt\(s\) within a deadline of 15 s; the last: 404: <html>"):
        client.encode(TEXTS)
    assert fake_time.waits == [0.125, 0.25, 0.5, 1, 2, 4, 4, 4, 4, 4, 4]


def test_nobody_there_is_a_service_error(fake_time: FakeTime) -> None:
    with run_faulty_server() as gone:
        url = gone.url
    with (
        Client(url, timing=fake_time.timing, deadline=5.0) as client,
        pytest.raises(ServiceError, match="ConnectError"),
    ):
        client.encode(TEXTS)


def test_an_answer_that_stalls_ends_at_the_timeout_and_is_asked_again(server: FaultyServer) -> None:
    server.script = [stall]
    with Client(server.url, timeout=0.3) as client:
        assert read_back(client.encode(TEXTS)) == TEXTS
    assert len(server.requests) == 2


def test_an_answer_that_stalls_past_the_deadline_is_given_up(server: FaultyServer) -> None:
    server.script = [stall] * 9
    with Client(server.url, deadline=0.3) as client, pytest.raises(ServiceError, match="no whole answer within"):
        client.encode(TEXTS)
