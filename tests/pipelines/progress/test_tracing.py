"""Spans of a unit's steps are one trace under the unit's id, and cost nothing where nobody wants them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.plan.units import Unit
from pipelines.progress import tracing
from pipelines.progress.tracing import Tracing, flush_traces, start_tracing, trace_unit
from t5enc.errors import ConfigError
from tests.pipelines.actors.fake_encoder import FakeEncoder
from tests.pipelines.one_process import lay_out

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs t5enc[otel]")
UNIT = Unit(source="a.parquet", first_row=30, num_rows=10, id="00ff00ff00ff00ff")
OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """What a provider exports into memory; the process's own provider is as before afterwards."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def test_steps_of_a_unit_are_one_trace_whose_id_is_the_units(exported: object) -> None:
    for step in ("read", "tokenize", "encode", "write"):
        with trace_unit(step, UNIT):
            pass
    spans = exported.get_finished_spans()  # type: ignore[attr-defined]
    assert [span.name for span in spans] == ["t5enc read", "t5enc tokenize", "t5enc encode", "t5enc write"]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {UNIT.id * 2}
    assert {span.attributes["t5enc.unit"] for span in spans} == {UNIT.name}
    flush_traces()


@pytest.mark.usefixtures("no_ray")
def test_a_worker_leaves_a_trace_for_each_unit_that_it_encodes(exported: object, tmp_path: Path) -> None:
    setting = lay_out(tmp_path)
    setting.run(FakeEncoder())
    spans = exported.get_finished_spans()  # type: ignore[attr-defined]
    steps = {unit.id: {span.name for span in spans if span.attributes["t5enc.unit"] == unit.name}
             for unit in setting.units}  # fmt: skip
    assert list(steps.values()) == [{"t5enc read", "t5enc tokenize", "t5enc encode", "t5enc write"}] * 3
    assert {f"{span.context.trace_id:032x}" for span in spans} == {unit_id * 2 for unit_id in steps}


def test_an_error_is_noted_and_passed_on(exported: object) -> None:
    with pytest.raises(ValueError, match="disk"), trace_unit("write", UNIT):
        raise ValueError("disk")
    (span,) = exported.get_finished_spans()  # type: ignore[attr-defined]
    assert span.status.is_ok is False
    assert span.events[0].name == "exception"


def test_a_provider_that_others_set_up_is_left_alone(exported: object) -> None:
    from opentelemetry import trace

    before = trace.get_tracer_provider()
    start_tracing(Tracing("http://127.0.0.1:9/v1/traces"))
    assert trace.get_tracer_provider() is before


def test_spans_reach_a_collector_over_http() -> None:
    pytest.importorskip(tracing.EXPORTER, reason="needs t5enc[otel]")
    done = subprocess.run([sys.executable, "-c", COLLECT], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.split() == ["/v1/traces", "secret", "True"], done.stderr


COLLECT = """
import http.server, threading
from pipelines.progress.tracing import Tracing, flush_traces, start_tracing, trace_unit
from pipelines.plan.units import Unit

class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print(self.path, self.headers["x-key"], b"t5enc" in body or self.headers["Content-Encoding"] == "gzip")
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
start_tracing(Tracing.from_environment(
    {"OTEL_EXPORTER_OTLP_ENDPOINT": base, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret"}))
with trace_unit("encode", Unit(source="a", first_row=0, num_rows=1, id="01" * 8)):
    pass
flush_traces()
"""


def test_the_environment_is_read_as_opentelemetry_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "is_installed", lambda name: True)
    assert Tracing.from_environment({}) is None
    told = {OTLP: "http://collector:4318/", "OTEL_EXPORTER_OTLP_HEADERS": "a=1, b=x=y"}
    assert Tracing.from_environment(told) == Tracing("http://collector:4318/v1/traces", (("a", "1"), ("b", "x=y")))
    whole = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector/other"}
    assert Tracing.from_environment(told | whole) == Tracing("http://collector/other", (("a", "1"), ("b", "x=y")))


def test_an_endpoint_without_its_exporter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "is_installed", lambda name: False)
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .* not installed"):
        Tracing.from_environment({OTLP: "http://collector:4318"})


def test_without_opentelemetry_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "is_installed", lambda name: False)
    with trace_unit("read", UNIT):
        pass
    flush_traces()
    start_tracing(None)
