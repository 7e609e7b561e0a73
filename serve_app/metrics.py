"""What a replica counts, under TEI's names: requests as they come and go, and batches as the models report them.

Ray collects these from every replica and serves them per node, with `ray_` before each name, to Prometheus.
"""

from __future__ import annotations

import time

from ray.util.metrics import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.models import Models
from t5enc.batcher import BatcherSnapshot

SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]
# TEI's reasons of failure by status; others are "inference".
REASONS = {400: "validation", 401: "unauthorized", 404: "validation", 408: "dropped", 413: "validation"}
REASONS |= {415: "validation", 422: "validation", 429: "overloaded"}
# What a snapshot counts from the start, and the name its growth is added to.
GROWING = {
    "texts": "te_embed_count",
    "tokens": "te_embed_tokens",
    "batches": "te_batch_count",
    "cache_hits": "te_cache_hits",
    "cache_misses": "te_cache_misses",
    "coalesced": "te_coalesced",
    "seconds_queued": "te_queue_seconds",
    "seconds_computing": "te_inference_seconds",
}
# What is read as it stands.
STANDING = {
    "queued_texts": "te_queue_size",
    "queued_tokens": "te_queue_tokens",
    "running_tokens": "te_running_tokens",
    "last_batch_texts": "te_batch_next_size",
    "last_batch_tokens": "te_batch_next_tokens",
}


class MeterRequests:
    """ASGI middleware: counts and times each request to a route that encodes or tokenizes (POST)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._count = Counter("te_request_count", "Requests taken in.", ("route",))
        self._success = Counter("te_request_success", "Requests answered as asked.", ("route",))
        self._failure = Counter("te_request_failure", "Requests refused or failed.", ("route", "err"))
        self._duration = Histogram("te_request_duration", "Seconds from head to answer.", SECONDS, ("route",))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how it ended; one that never got an answer was dropped."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        status: list[int] = []

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
            await send(message)

        start = time.perf_counter()
        try:
            await self._app(scope, receive, noted)
        finally:
            self._note(scope, status[0] if status else None, time.perf_counter() - start)

    def _note(self, scope: Scope, status: int | None, seconds: float) -> None:
        tags = {"route": name_route(scope)}
        self._count.inc(tags=tags)
        self._duration.observe(seconds, tags=tags)
        if status is not None and status < 400:
            self._success.inc(tags=tags)
        else:
            self._failure.inc(tags=tags | {"err": name_failure(status)})


class BatchMetrics:
    """Reports what the models' batchers have done since the last time."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._reported = {name: service.snapshot() for name, service in models.items()}
        self._counters = {name: Counter(to, _describe(name), ("model",)) for name, to in GROWING.items()}
        self._gauges = {name: Gauge(to, _describe(name), ("model",)) for name, to in STANDING.items()}

    def report(self) -> None:
        """Add what is new, and set what stands."""
        for name, service in self._models.items():
            now = service.snapshot()
            self._report(name, self._reported[name], now)
            self._reported[name] = now

    def _report(self, model: str, before: BatcherSnapshot, now: BatcherSnapshot) -> None:
        tags = {"model": model}
        for name, counter in self._counters.items():
            grown = getattr(now, name) - getattr(before, name)
            if grown > 0:  # Ray refuses to add nothing
                counter.inc(grown, tags=tags)
        for name, gauge in self._gauges.items():
            gauge.set(getattr(now, name), tags=tags)


def name_route(scope: Scope) -> str:
    """The route that was matched, "none" where no route was: paths are the caller's, and without number."""
    return str(getattr(scope.get("route"), "path", "none"))


def name_failure(status: int | None) -> str:
    """TEI's word for how a request failed; None is one without an answer."""
    return "dropped" if status is None else REASONS.get(status, "inference")


def _describe(name: str) -> str:
    return f"{name.replace('_', ' ').capitalize()}, as the model's batcher counts."
