"""An application whose figures start at zero, requests to it, and what they add up to."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import httpx2
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.middleware import Middleware

from serve_app.api.application import make_http
from serve_app.http.body_limits import LimitBodies
from serve_app.http.keys import KeyRing, RequireKeys
from serve_app.http.metering import MeterRequests, Metrics
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.options import EncoderOptions
from tests.serve_app.in_process import ask

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
