"""Optional OpenTelemetry: what is done with a unit as spans of one trace, whose id is the unit's, twice.

A trace is found by the name of its shard, and holds every attempt at the unit, whichever actor made it. Without
the package `opentelemetry`, or where nobody has set up where spans go, nothing is done and nothing is kept.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.plan.units import Unit
from t5enc.errors import ConfigError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# An actor may be ended any moment after a call; a collector that does not answer must not hold it up.
FLUSH_MILLISECONDS = 1000
EXPORTER = "opentelemetry.exporter.otlp.proto.http"


@dataclass(frozen=True, slots=True)
class Tracing:
    """Where actors send spans: an OTLP endpoint over HTTP, and headers for it."""

    endpoint: str
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Tracing | None:
        """As OpenTelemetry's own variables say, or None; ConfigError where what they need is not installed."""
        whole, base = (environment.get(name) for name in ENDPOINTS)
        if not whole and not base:
            return None
        if not is_installed(EXPORTER):
            raise ConfigError(f'{ENDPOINTS[1]}: set, but its exporter is not installed: pip install "t5enc[otel]"')
        said = environment.get("OTEL_EXPORTER_OTLP_HEADERS", "")
        pairs = [part.partition("=") for part in said.split(",") if "=" in part]
        headers = tuple((name.strip(), value.strip()) for name, _, value in pairs)
        return cls(whole or f"{str(base).rstrip('/')}/v1/traces", headers)


def is_installed(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def start_tracing(tracing: Tracing | None) -> None:
    """Send this process's spans there, unless somebody (Ray's tracing hook) has set up another way already."""
    if tracing is None:
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    provider = TracerProvider(resource=Resource.create({"service.name": "t5enc-encode"}))
    exporter = OTLPSpanExporter(endpoint=tracing.endpoint, headers=dict(tracing.headers))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


@contextmanager
def trace_unit(step: str, unit: Unit) -> Iterator[None]:
    """A span around a step of a unit's work: read, tokenize, encode or write."""
    if not is_installed("opentelemetry"):
        yield
        return
    from opentelemetry import trace

    number = int(unit.id, 16)
    parent = trace.SpanContext(
        trace_id=number << 64 | number or 1, span_id=number or 1, is_remote=True, trace_flags=trace.TraceFlags(1)
    )
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    about: dict[str, str | int] = {"t5enc.unit": unit.name, "t5enc.rows": unit.num_rows}
    with trace.get_tracer("t5enc").start_as_current_span(f"t5enc {step}", context, attributes=about):
        yield


def flush_traces() -> None:
    """Send what is kept, before the process may be ended."""
    if is_installed("opentelemetry.sdk"):
        from opentelemetry import trace

        flush = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush(FLUSH_MILLISECONDS)
