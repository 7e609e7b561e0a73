"""What is counted adds up: requests by how they ended, texts and tokens by what became of them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.middleware import Middleware
from starlette.types import Message, Send

from serve_app.api.application import make_http
from serve_app.http.body_limits import LimitBodies
from serve_app.http.keys import KeyRing, RequireKeys
from serve_app.http.metering import DEFINITIONS, MeterRequests, Metrics
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.errors import PrecisionError
from t5enc.options import EncoderOptions
from tests.serve_app.in_process import LONG, ask

KEY = "a-key-of-the-tests"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
MAX_BODY_BYTES = 4096

Figures = dict[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Case:
    """A request, how many texts it has embedded, and how it is counted: `end` is a method, or a reason of failure."""

    path: str
    body: object
    end: str
    texts: int = 0
    route: str = ""
    headers: tuple[tuple[str, str], ...] = ()


CHROMA = {"recipe": "chroma", "recipe_options": {"max_sequence_length": 32}}
ANSWERED = [
    Case("/embed", {"inputs": "a bird"}, "single", 1),
    Case("/embed", {"inputs": ["a bird", "two birds", "a bird"]}, "batch", 3),
    Case("/embed", {"inputs": [5, 6, 1]}, "single", 1),
    Case("/embed_all", {"inputs": LONG}, "single", 1),
    Case("/", {"inputs": ["a bird"]}, "batch", 1),
    Case("/encode", {"texts": ["a bird", "a dog"]}, "batch", 2),
    Case("/v1/embeddings", {"input": "a dog"}, "single", 1),
    Case("/embeddings", {"input": [[5, 1], [6, 1]]}, "batch", 2),
    Case("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}}, "batch", 3),
    Case("/encode", {"texts": ["a bird"], "null": True} | CHROMA, "batch", 2),
    Case("/encode", {"null": True} | CHROMA, "single", 1),
    Case("/prepare", {"texts": ["a bird"]} | CHROMA, "batch"),
    Case("/tokenize", {"inputs": "a bird"}, "single"),
    Case("/decode", {"ids": [[5, 1]]}, "batch"),
]
REFUSED = [
    Case("/embed", {"inputs": []}, "validation"),
    Case("/embed", {"inputs": ["a"] * 9}, "batch_size"),
    Case("/embed", {"inputs": LONG, "truncate": False}, "tokenization"),
    Case("/embed", {"inputs": [[2000]]}, "tokenization"),
    Case("/embed", {"inputs": "a", "model": "gpt"}, "validation"),
    Case("/embed", {}, "validation"),
    Case("/encode", {"texts": ["a"]}, "validation", headers=(("Accept", "image/png"),)),
    Case("/encode", {"texts": ["a"]}, "unauthorized", route="none", headers=(("Authorization", "Bearer nobody"),)),
    Case("/encode", {"texts": ["a" * MAX_BODY_BYTES]}, "validation", route="none"),
    Case("/encode", {"texts": ["a"], "recipe": "wan"}, "validation"),
    Case("/encode", {"texts": [LONG], "truncate": False} | CHROMA, "tokenization"),
    Case("/v1/embeddings", {"input": ["a"] * 9}, "batch_size"),
    Case("/rerank", {"query": "a", "texts": ["b"]}, "model_type"),
    Case("/nothing", {}, "validation", route="none"),
]


class Server:
    """An application with a tiny model of its own, whose figures start at zero; `hold` keeps a batch in the model."""

    def __init__(self, *, with_ray: bool = False) -> None:
        limits = ServiceLimits(max_texts=8, max_length=64, queue_texts=64, queue_tokens=1024)
        self.model = ModelService("tiny", EncoderOptions(model="builtin:tiny", max_length=64), limits)
        models = Models([self.model])
        self.metrics = Metrics(models, with_ray=with_ray)
        middlewares = [
            Middleware(MeterRequests, metrics=self.metrics),
            Middleware(RequireKeys, keys=KeyRing(values=[KEY])),
            Middleware(LimitBodies, max_bytes=MAX_BODY_BYTES, seconds=60.0),
        ]
        self.app: FastAPI = make_http(models, middlewares=middlewares, metrics=self.metrics)
        self.inside, self.free = threading.Event(), threading.Event()

    def hold(self) -> None:
        """From now on a batch waits in the model until `free` is set, and `inside` tells that one does."""
        encode = self.model._actor.encoder.encode_ragged

        def wait(*args: Any, **kwargs: Any) -> Any:
            self.inside.set()
            self.free.wait()
            return encode(*args, **kwargs)

        self.model._actor.encoder.encode_ragged = wait  # type: ignore[method-assign]

    async def send(self, case: Case) -> httpx2.Response:
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(case.path, json=case.body, headers=HEADERS | dict(case.headers))

    def read(self) -> defaultdict[str, Figures]:
        """All samples of /metrics by name, then by the values of their tags, route and model before the others."""
        answer = ask("GET", "/metrics", app=self.app)
        assert answer.headers["content-type"].startswith("text/plain; version=")
        figures: defaultdict[str, Figures] = defaultdict(dict)
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                tags = sorted(sample.labels, key=lambda name: name not in ("route", "model"))
                figures[sample.name][tuple(sample.labels[name] for name in tags)] = sample.value
        return figures


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.free.set()


def check_sums(figures: defaultdict[str, Figures], ends: Counter[tuple[str, str]]) -> None:
    """Every request is counted once, as what it was."""
    success, failure = figures["te_request_success_total"], figures["te_request_failure_total"]
    assert success | failure == dict(ends)
    for figure in ("te_request_count_total", "te_request_duration_count"):
        assert sum_by_route(figures[figure]) == sum_by_route(ends)


def sum_by_route(values: Figures | Counter[tuple[str, str]]) -> dict[str, float]:
    """Without the other tags."""
    sums: Counter[str] = Counter()
    for tags, value in values.items():
        sums[tags[0]] += int(value)
    return dict(sums)


def test_requests_of_every_kind_add_up(server: Server) -> None:
    cases = [*ANSWERED, *REFUSED] * 3

    async def send_all() -> list[httpx2.Response]:
        return [await server.send(case) for case in cases]

    answers = asyncio.run(send_all())
    figures = server.read()
    assert [answer.status_code == 200 for answer in answers] == [case in ANSWERED for case in cases]
    check_sums(figures, Counter((case.route or case.path, case.end) for case in cases))


def test_texts_and_tokens_add_up(server: Server) -> None:
    async def send_all() -> list[httpx2.Response]:
        return await asyncio.gather(*(server.send(case) for case in [*ANSWERED, *REFUSED]))

    answers = [answer for answer in asyncio.run(send_all()) if "x-compute-tokens" in answer.headers]
    figures = server.read()
    texts = sum(case.texts for case in ANSWERED)
    works = Counter({case.path: 1 for case in ANSWERED if case.texts}) | Counter({"/embed": 3, "/encode": 3})
    assert sum_by_route(figures["te_request_queue_duration_count"]) == works
    assert sum(figures["te_request_input_length_count"].values()) == texts
    sent = sum(int(answer.headers["x-compute-tokens"]) for answer in answers)
    assert sum(figures["te_request_input_length_sum"].values()) == sent
    hits, misses, shared = (
        figures[f"te_{name}_total"]["tiny",] for name in ("cache_hits", "cache_misses", "coalesced")
    )
    assert hits + misses == texts == figures["te_embed_count_total"]["tiny",]
    assert figures["te_embed_success_total"]["tiny",] == texts
    assert figures["te_batch_texts_total"]["tiny",] == misses - shared
    assert figures["te_queue_size"]["tiny",] == figures["te_running_tokens"]["tiny",] == 0


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


def test_failures_of_the_model_are_its_own(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [PrecisionError({0: "too large"}), RuntimeError("no memory")]

    async def fail(ids: object) -> None:
        raise failures.pop()

    monkeypatch.setattr(server.model, "encode", fail)
    answers = [asyncio.run(server.send(Case("/embed", {"inputs": "a"}, ""))) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [500, 424]
    check_sums(server.read(), Counter({("/embed", "inference"): 2}))


def test_times_of_a_request_are_those_of_its_steps(server: Server) -> None:
    asyncio.run(server.send(ANSWERED[1]))
    figures = server.read()
    steps = [figures[f"te_request_{step}_duration_sum"]["/embed",] for step in ("tokenization", "queue", "inference")]
    assert min(steps) >= 0.0
    assert 0.0 < sum(steps) <= figures["te_request_duration_sum"]["/embed",]


def test_every_figure_is_shown_to_anyone_and_only_where_there_is_one_replica(server: Server) -> None:
    asyncio.run(server.send(ANSWERED[0]))
    text = ask("GET", "/metrics", app=server.app).text
    assert [name for name in DEFINITIONS if f"# HELP {name}" not in text] == []
    several = make_http(Models([server.model]))
    assert ask("GET", "/metrics", app=several).status_code == 404


def test_ray_is_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray.util.metrics", reason="needs ray[serve]")
    told: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)

    def note(metric: Any, value: float, tags: dict[str, str]) -> None:
        metric._validate_tags(tags)
        told[metric.info["name"]][tuple(tags.values())] += value  # type: ignore[assignment]

    for kind in (ray.Counter, ray.Histogram, ray.Gauge):
        monkeypatch.setattr(kind, "_record", note)
    server = Server(with_ray=True)
    for case in [*ANSWERED, *REFUSED]:
        asyncio.run(server.send(case))
    figures = server.read()
    assert set(told) == {name for name in DEFINITIONS if name != "te_coalesced"}
    for name, values in told.items():
        shown = figures[f"{name}_total"] or figures[f"{name}_sum"] or figures[name]
        assert +Counter(shown) == pytest.approx(dict(+values)), name


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
