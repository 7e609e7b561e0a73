"""What is counted adds up: requests by how they ended, texts and tokens by what became of them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import httpx2
import pytest

from serve_app.api.application import make_http
from serve_app.http.metering import DEFINITIONS
from serve_app.served.models import Models
from t5enc.errors import PrecisionError
from tests.serve_app.http.metered_server import MAX_BODY_BYTES, Case, Server, check_sums, sum_by_route
from tests.serve_app.in_process import LONG, ask

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
