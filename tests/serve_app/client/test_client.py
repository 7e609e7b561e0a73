"""The clients against servers that misbehave on purpose; time and chance are the tests' own."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serve_app.client import AsyncClient, Client
from serve_app.client.chunks import cut_chunks, guess_tokens
from serve_app.client.retries import Timing
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import ConfigError, InputError, OverloadedError, PrecisionError, ServiceError
from t5enc.text_encoder import TextEncoder
from tests.serve_app.faulty_server import (
    DIM,
    INFO,
    Behaviour,
    FaultyServer,
    answer_as,
    answer_rightly,
    close_early,
    cut_body,
    encode_identity,
    refuse,
    reset,
    run_faulty_server,
    send,
    show_page,
    stall,
)
from tests.t5enc.reference import ROUNDING, distance

TEXTS = ["a red fox", "", "two herons"]
BUSY = {"error": "Model is overloaded", "error_type": "Overloaded"}


@dataclass
class FakeTime:
    """A clock that only sleeping moves, and dice that always show the same."""

    now: float = 1000.0
    dice: float = 0.5
    waits: list[float] = field(default_factory=list)

    @property
    def timing(self) -> Timing:
        return Timing(clock=lambda: self.now, sleep=self.sleep, random=lambda: self.dice)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with run_faulty_server() as faulty:
        yield faulty


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def client(server: FaultyServer, fake_time: FakeTime) -> Iterator[Client]:
    with Client(server.url, timing=fake_time.timing, deadline=60.0) as client:
        yield client


def read_back(embeddings: Any) -> list[str]:
    """The texts that identity embeddings were made of."""
    return ["".join(chr(int(row[0])) for row in text) for text in embeddings]


def test_embeddings_come_back_as_the_server_made_them(client: Client, server: FaultyServer) -> None:
    answer = client.answer(["a red fox", "x" * 101])
    assert read_back(answer.embeddings) == ["a red fox", "x" * 101]
    assert answer.embeddings.values.shape == (110, DIM)
    assert answer.truncated.tolist() == [False, True]
    assert (answer.model, answer.fingerprint) == ("identity", "f1")
    assert server.requests == [{"texts": ["a red fox", "x" * 101], "truncate": True}]


def test_token_ids_are_sent_as_they_are(client: Client, server: FaultyServer) -> None:
    embeddings = client.encode_tokens([[5, 6, 1], torch.tensor([7, 1]).numpy()])
    assert embeddings.values[:, 0].tolist() == [5, 6, 1, 7, 1]
    assert embeddings.lengths.tolist() == [3, 2]
    assert server.requests == [{"ids": [[5, 6, 1], [7, 1]]}]


def test_no_texts_are_embeddings_of_none(client: Client) -> None:
    answer = client.answer([])
    assert answer.embeddings.values.shape == (0, DIM)
    assert (len(answer.embeddings), answer.model, answer.fingerprint) == (0, "identity", "f1")


def test_info_is_what_the_server_says(client: Client) -> None:
    assert client.info()["model_id"] == "identity"


def test_key_and_model_go_with_every_request(server: FaultyServer) -> None:
    with Client(server.url, "secret", model="other", max_texts=1) as client:
        client.encode(TEXTS)
        assert "secret" not in repr(client.options)
    assert server.keys == ["Bearer secret"] * 3
    assert {request["model"] for request in server.requests} == {"other"}


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


@pytest.mark.parametrize("missing", [{"model_dim": None}, {"model_dtype": None}, {"model_dtype": "load"}])
def test_no_texts_cannot_be_shaped_as_a_server_that_tells_no_width(
    client: Client, server: FaultyServer, missing: dict[str, Any]
) -> None:
    server.script = [refuse(200, INFO | missing)]
    with pytest.raises(ServiceError, match=r"/info: expected model_dim and model_dtype, .* got "):
        client.encode([])


@given(st.lists(st.integers(1, 50)), st.integers(1, 10), st.integers(1, 60))
def test_chunks_cover_all_texts_within_their_limits(sizes: list[int], max_texts: int, max_tokens: int) -> None:
    chunks = cut_chunks(sizes, max_texts=max_texts, max_tokens=max_tokens)
    assert [index for chunk in chunks for index in chunk] == list(range(len(sizes)))
    for chunk in chunks:
        assert 1 <= len(chunk) <= max_texts
        assert len(chunk) == 1 or sum(sizes[index] for index in chunk) <= max_tokens


def test_tokens_are_guessed_from_bytes() -> None:
    assert [guess_tokens(text) for text in ("", "four", "漢字漢字")] == [1, 2, 4]


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


def test_what_is_missing_in_the_services_own_words_is_not_asked_for_again(client: Client, server: FaultyServer) -> None:
    server.script = [refuse(404, {"error": "model: expected one of tiny, got 'huge'", "error_type": "Validation"})]
    with pytest.raises(InputError, match="404: model: expected one of tiny"):
        client.encode(TEXTS)
    assert len(server.requests) == 1


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


@pytest.mark.parametrize(
    "content",
    [
        {"error": "texts[1]: 900 tokens", "error_type": "Validation"},
        {"error": {"message": "texts[1]: 900 tokens", "type": "invalid_request_error"}},
        {"detail": "texts[1]: 900 tokens"},
    ],
    ids=["TEI", "OpenAI", "FastAPI"],
)
def test_a_refusal_is_an_input_error_in_the_servers_words(
    client: Client, server: FaultyServer, content: object
) -> None:
    server.script = [refuse(422, content)]
    with pytest.raises(InputError, match=r"\(texts 0 to 2\): 422: texts\[1\]: 900 tokens"):
        client.encode(TEXTS, truncate=False)
    assert server.requests == [{"texts": TEXTS, "truncate": False}]


def test_a_refused_chunk_is_named_and_ends_the_others(server: FaultyServer) -> None:
    server.script = [stall, refuse(422, {"error": "no"})]
    with Client(server.url, max_texts=2) as client, pytest.raises(InputError, match=r"texts \d to \d\): 422: no"):
        client.encode(list("abcd"))


def test_a_key_that_is_not_accepted_is_a_config_error(client: Client, server: FaultyServer) -> None:
    server.script = [refuse(401, {})]
    with pytest.raises(ConfigError, match="401"):
        client.encode(TEXTS)
    assert len(server.requests) == 1


def test_texts_that_the_model_cannot_compute_are_named_by_their_place_in_the_whole_list(server: FaultyServer) -> None:
    reason = "activations left the range of float16"
    failed = {"error": "1 text(s)", "error_type": "Backend", "failed": {"1": reason}}

    def answer(handler: Any, content: dict[str, Any]) -> None:
        behaviour = refuse(424, failed) if "bad" in content["texts"] else answer_rightly
        behaviour(handler, content)

    server.answer = answer
    with Client(server.url, max_texts=2) as client, pytest.raises(PrecisionError) as error:
        client.encode(["a", "b", "c", "bad", "d"])
    assert error.value.failed == {3: reason}
    assert str(error.value) == f"1 text(s) could not be encoded: texts[3]: {reason}"
    assert sum("bad" in request["texts"] for request in server.requests) == 1


@pytest.mark.parametrize("failed", [{}, [], "3", {"three": "no"}, None])
def test_a_424_that_names_no_texts_is_a_service_error(client: Client, server: FaultyServer, failed: object) -> None:
    server.script = [refuse(424, {"error": "Inference failed", "error_type": "Backend", "failed": failed})]
    with pytest.raises(ServiceError, match="424: Inference failed"):
        client.encode(TEXTS)


@pytest.mark.parametrize("status", [424, 500])
def test_a_fault_that_the_server_admits_is_not_tried_again(client: Client, server: FaultyServer, status: int) -> None:
    server.script = [refuse(status, {"error": "bug"})]
    with pytest.raises(ServiceError, match=f"{status}: bug"):
        client.encode(TEXTS)
    assert len(server.requests) == 1


def test_an_answer_for_other_texts_is_refused(client: Client, server: FaultyServer) -> None:
    server.script = [send(encode_identity({"texts": ["only one"]}))]
    with pytest.raises(ServiceError, match="of 3 texts"):
        client.encode(TEXTS)


def test_an_answer_without_its_tensors_is_refused(client: Client, server: FaultyServer) -> None:
    from safetensors.torch import save

    server.script = [send(save({"embeddings": torch.zeros(3, 4)}))]
    with pytest.raises(ServiceError, match="expected tensors values, offsets and truncated, got embeddings"):
        client.encode(TEXTS)


def test_offsets_that_do_not_fit_the_values_are_refused(client: Client, server: FaultyServer) -> None:
    from safetensors.torch import save

    tensors = {"values": torch.zeros(5, 4), "offsets": torch.tensor([0, 4, 2, 5]), "truncated": torch.zeros(3)}
    server.script = [send(save(tensors))]
    with pytest.raises(ServiceError, match="offsets that rise from 0 to 5"):
        client.encode(TEXTS)


def test_embeddings_of_two_models_are_not_mixed(server: FaultyServer) -> None:
    server.script = [answer_as("f1"), answer_as("f2")]
    with Client(server.url, max_texts=1, parallel=1) as client, pytest.raises(ServiceError, match="f1 to f2"):
        client.encode(["a", "b"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"url": "localhost:8000"}, "url"),
        ({"url": "ftp://host"}, "url"),
        ({"url": "http://host:port"}, "url"),
        ({"deadline": 0}, "deadline"),
        ({"max_texts": 0}, "max_texts"),
        ({"key": "a key of a file\n"}, "key"),
        ({"key": "schlüssel"}, "key"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{expected}: expected"):
        Client(**{"url": "http://host", **options})


def test_what_is_no_text_is_refused_before_it_is_sent(client: Client, server: FaultyServer) -> None:
    with pytest.raises(InputError, match=r"texts\[1\]: expected a string, got int"):
        client.encode(["a", 5])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"ids\[0\]: expected a flat list"):
        client.encode_tokens([[0.5]])  # type: ignore[list-item]
    assert server.requests == []


def test_the_async_client_serves_many_callers_of_one_loop(server: FaultyServer) -> None:
    async def run() -> list[list[str]]:
        async with AsyncClient(server.url) as client:
            return [read_back(part) for part in await asyncio.gather(*(client.encode([text]) for text in "abc"))]

    assert asyncio.run(run()) == [["a"], ["b"], ["c"]]


def test_the_client_works_where_a_loop_is_running(client: Client) -> None:
    async def run() -> list[str]:
        return read_back(client.encode(TEXTS))

    assert asyncio.run(run()) == TEXTS


def test_a_client_that_is_dropped_ends_its_thread(server: FaultyServer) -> None:
    client = Client(server.url)
    client.encode(TEXTS)
    thread = client._thread
    del client
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_make_its_own_client(client: Client) -> None:
    child = os.fork()
    if child == 0:
        try:
            client.encode(TEXTS)
        except ConfigError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    """The address of the real application, with two models of different limits."""
    from serve_app.api.application import make_http
    from serve_app.served.models import Models
    from serve_app.served.service import ModelService, ServiceLimits
    from t5enc.options import EncoderOptions
    from tests.serve_app.serving import serve

    options = EncoderOptions(model="builtin:tiny")
    services = [ModelService(f"m{size}", options, ServiceLimits(max_length=size, max_texts=64)) for size in (512, 16)]
    with serve(make_http(Models(services))) as url:
        yield url


def test_the_service_gives_what_the_encoder_gives(real: str) -> None:
    captions = sample_captions()
    encoder = TextEncoder.from_pretrained("builtin:tiny")
    with Client(real) as client:
        found = client.encode(captions)
        ids = encoder.tokenize(captions[:50]).ids
        assert distance(client.encode_tokens(ids), found[:50]) < ROUNDING
        assert client.info()["model_dim"] == found.dim == client.encode([]).dim
    assert distance(found, encoder.encode(captions)) < ROUNDING


def test_the_service_says_which_texts_it_cut(real: str) -> None:
    texts = ["short", "a long one " * 20]
    with Client(real, model="m16") as client:
        answer = client.answer(texts)
        assert answer.truncated.tolist() == [False, True]
        assert answer.embeddings.lengths[1] == 16
        assert answer.model == "m16"
        assert client.info()["max_input_length"] == 16
        with pytest.raises(InputError, match=r"422: texts\[1\]: expected at most 16 tokens"):
            client.encode(texts, truncate=False)


def test_a_model_that_is_not_served_is_named(real: str) -> None:
    with Client(real, model="m9") as client, pytest.raises(InputError, match="404: model: expected one of m512, m16"):
        client.encode(TEXTS)


def test_closing_a_client_ends_the_calls_that_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.encode, ["a"])
            with silent.accept()[0] as asked:
                asked.recv(1)
                client.close()
            with pytest.raises(ServiceError, match="the client was closed before the answer was there"):
                waiting.result(timeout=60)
    with pytest.raises(ConfigError, match="this client was closed"):
        client.encode(["a"])
