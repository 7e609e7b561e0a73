"""Metering: what a replica counts, under TEI's names: requests as they come and go, and batches as models report them.

Ray collects these from every replica and serves them per node, with `ray_` before each name, to Prometheus; where there
is one replica, the application has them at `/metrics`, too. A request is counted with the route that it met, "none"
where it met no route; its texts pass through the model together, so that TEI's times of single texts
(`te_embed_duration` and so on) are those of their request here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import metrics as prometheus
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.served.models import Models
from serve_app.served.notes import CURRENT, Notes
from t5enc.online.batcher import BatcherSnapshot

# Adds to a counter, sets a gauge, or observes for a histogram: a value with its tags.
Record = Callable[[float, dict[str, str]], None]

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TOKENS = tuple(float(2**power) for power in range(16))


@dataclass(frozen=True, slots=True)
class Definition:
    """One figure: what it tells, what it is split by, and the buckets of a histogram."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    tags: tuple[str, ...]
    buckets: tuple[float, ...] = ()


def _of_requests(kind: Literal["counter", "histogram"], help: str, *tags: str) -> Definition:
    return Definition(kind, help, ("route", *tags), SECONDS if kind == "histogram" else ())


def _of_models(kind: Literal["counter", "gauge"], help: str) -> Definition:
    return Definition(kind, help, ("model",))


DEFINITIONS = {
    "te_request_count": _of_requests("counter", "Requests taken in.", "method"),
    "te_request_success": _of_requests("counter", "Requests answered as asked.", "method"),
    "te_request_failure": _of_requests("counter", "Requests refused, failed or dropped.", "err"),
    "te_request_duration": _of_requests("histogram", "Seconds from head to answer."),
    "te_request_tokenization_duration": _of_requests("histogram", "Seconds until all texts were tokenized."),
    "te_request_queue_duration": _of_requests("histogram", "Seconds until the model took the first text."),
    "te_request_inference_duration": _of_requests("histogram", "Seconds from then until the last text was through."),
    "te_request_input_length": Definition("histogram", "Tokens of a text that was encoded.", ("route",), TOKENS),
    "te_embed_count": _of_models("counter", "Texts whose embeddings were asked for."),
    "te_embed_success": _of_models("counter", "Texts whose embeddings were delivered."),
    "te_cache_hits": _of_models("counter", "Texts that were finished before they were asked for."),
    "te_cache_misses": _of_models("counter", "Texts that were not."),
    "te_coalesced": _of_models("counter", "Of these, texts that waited for an equal one in flight."),
    "te_batch_count": _of_models("counter", "Batches that the model computed."),
    "te_batch_texts": _of_models("counter", "Texts in these batches."),
    "te_batch_tokens": _of_models("counter", "Tokens in these batches."),
    "te_queue_seconds": _of_models("counter", "Seconds that texts of batches had waited, summed over them."),
    "te_inference_seconds": _of_models("counter", "Seconds that batches took."),
    "te_queue_size": _of_models("gauge", "Texts that wait."),
    "te_queue_tokens": _of_models("gauge", "Tokens that wait."),
    "te_running_tokens": _of_models("gauge", "Tokens in the batch that runs."),
    "te_batch_next_size": _of_models("gauge", "Texts in the last batch."),
    "te_batch_next_tokens": _of_models("gauge", "Tokens in the last batch."),
}


class Metrics:
    """The figures of one replica."""

    def __init__(self, models: Models, *, with_ray: bool) -> None:
        """`with_ray` tells Ray of them as well, inside one of its processes."""
        self._models = models
        self._reported = {name: BatcherSnapshot() for name in models}
        self._registry = CollectorRegistry()
        texts = {name: _as_text(name, definition, self._registry) for name, definition in DEFINITIONS.items()}
        self._backends: list[Mapping[str, Record]] = [texts]
        if with_ray:
            self._backends.append({name: _in_ray(name, definition) for name, definition in DEFINITIONS.items()})

    def count_request(self, route: str, notes: Notes, seconds: float) -> None:
        """Note a request that is over: a success where its notes have no reason of failure."""
        self._record("te_request_count", 1, route=route, method=notes.method)
        self._record("te_request_duration", seconds, route=route)
        if notes.reason is None:
            self._record("te_request_success", 1, route=route, method=notes.method)
        else:
            self._record("te_request_failure", 1, route=route, err=notes.reason)
        for timings in notes.timings:
            self._record("te_request_tokenization_duration", timings.seconds_tokenizing, route=route)
            self._record("te_request_queue_duration", timings.seconds_queued, route=route)
            self._record("te_request_inference_duration", timings.seconds_computing, route=route)
            for length in timings.lengths:
                self._record("te_request_input_length", length, route=route)

    def report(self) -> None:
        """Add what the models' batchers did since the last time, and set what stands."""
        for name, service in self._models.items():
            before, now = self._reported[name], service.snapshot()
            self._reported[name] = now
            for figure, value in _read_totals(now).items():
                self._record(figure, value - _read_totals(before)[figure], model=name)
            for figure, value in _read_levels(now).items():
                self._record(figure, value, model=name)

    def render(self) -> bytes:
        """All figures up to now in Prometheus' text format."""
        self.report()
        return generate_latest(self._registry)

    def _record(self, figure: str, value: float, **tags: str) -> None:
        for backend in self._backends:
            backend[figure](value, tags)


class MeterRequests:
    """ASGI middleware around all others: has notes taken of each POST, and counts it when that is over."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how it ended."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        notes, start = Notes(), time.perf_counter()
        token = CURRENT.set(notes)
        try:
            await self._pass(notes, scope, receive, send)
        finally:
            CURRENT.reset(token)
            self._metrics.count_request(name_route(scope), notes, time.perf_counter() - start)

    async def _pass(self, notes: Notes, scope: Scope, receive: Receive, send: Send) -> None:
        """A request whose answer was not sent to its end was dropped by whoever sent it, or failed."""
        notes.reason = "dropped"
        sending = _Sending(send)
        try:
            await self._app(scope, receive, sending)
        except Exception:
            notes.reason = "dropped" if sending.is_cut else "inference"
            raise
        if sending.is_success:
            notes.reason = None


class _Sending:
    """Sends an answer, and knows how far it came."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._status = 0
        self._is_whole = False
        self.is_cut = False

    @property
    def is_success(self) -> bool:
        """Whether all of an answer was sent, and it is no refusal."""
        return self._is_whole and self._status < 400

    async def __call__(self, message: Message) -> None:
        try:
            await self._send(message)
        except Exception:  # nobody is there to receive it
            self.is_cut = True
            raise
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            self._is_whole = not message.get("more_body", False)


def name_route(scope: Scope) -> str:
    """The route that was matched, "none" where no route was: paths are the caller's, and without number."""
    return str(getattr(scope.get("route"), "path", "none"))


def _read_totals(counts: BatcherSnapshot) -> dict[str, float]:
    return {
        "te_embed_count": counts.cache_hits + counts.cache_misses,
        "te_embed_success": counts.delivered,
        "te_cache_hits": counts.cache_hits,
        "te_cache_misses": counts.cache_misses,
        "te_coalesced": counts.coalesced,
        "te_batch_count": counts.batches,
        "te_batch_texts": counts.texts,
        "te_batch_tokens": counts.tokens,
        "te_queue_seconds": counts.seconds_queued,
        "te_inference_seconds": counts.seconds_computing,
    }


def _read_levels(counts: BatcherSnapshot) -> dict[str, float]:
    return {
        "te_queue_size": counts.queued_texts,
        "te_queue_tokens": counts.queued_tokens,
        "te_running_tokens": counts.running_tokens,
        "te_batch_next_size": counts.last_batch_texts,
        "te_batch_next_tokens": counts.last_batch_tokens,
    }


def _as_text(name: str, definition: Definition, registry: CollectorRegistry) -> Record:
    """A figure of prometheus_client, which puts `_total` behind a counter's name."""
    if definition.kind == "counter":
        counter = prometheus.Counter(name, definition.help, definition.tags, registry=registry)
        return lambda value, tags: counter.labels(**tags).inc(value)
    if definition.kind == "gauge":
        gauge = prometheus.Gauge(name, definition.help, definition.tags, registry=registry)
        return lambda value, tags: gauge.labels(**tags).set(value)
    histogram = prometheus.Histogram(
        name, definition.help, definition.tags, registry=registry, buckets=definition.buckets
    )
    return lambda value, tags: histogram.labels(**tags).observe(value)


def _in_ray(name: str, definition: Definition) -> Record:
    """The same figure of Ray's, which puts `ray_` before its name."""
    from ray.util.metrics import Counter, Gauge, Histogram

    if definition.kind == "counter":
        counter = Counter(name, definition.help, definition.tags)
        return lambda value, tags: counter.inc(value, tags) if value > 0 else None  # Ray refuses to add nothing
    if definition.kind == "gauge":
        return Gauge(name, definition.help, definition.tags).set  # type: ignore[no-any-return]
    return Histogram(name, definition.help, list(definition.buckets), definition.tags).observe  # type: ignore[no-any-return]
