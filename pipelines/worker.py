"""What an EncoderActor does for the pipeline: reads a span once, encodes it unit by unit, commits each.

Three threads overlap: one reads and tokenizes the next unit, the model encodes this one, one writes the last.
Embeddings go from the model to the output and nowhere else; only records return to the driver.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import platform
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeVar

import pyarrow as pa
import torch

from pipelines.captions import read_captions
from pipelines.commit import commit_shard
from pipelines.findings import Findings, find_reasons
from pipelines.job import FrozenJob
from pipelines.leaving import find_node
from pipelines.null import compute_null, is_null_there, write_null
from pipelines.places import find_place, name_device
from pipelines.records import UnitRecord, read_footer_record
from pipelines.retrying import count_retries
from pipelines.shards import (
    Caution,
    PreparedUnit,
    encode_carefully,
    encode_unit,
    make_shard,
    prepare_unit,
)
from pipelines.sinks import serialize_shard
from pipelines.spans import SpanTask
from pipelines.store import open_store
from pipelines.tracing import Tracing, flush_traces, start_tracing, trace_unit
from pipelines.units import Span, Unit
from pipelines.versions import Code, check_code
from t5enc.actor import EncoderActor
from t5enc.errors import InputError, OutputError, SourceError, T5encError
from t5enc.storage import working_dtype
from t5enc.text_encoder import EncodedTexts

T = TypeVar("T")

# What PyTorch raises where a card is broken, or full: the next process may get another.
CARD_ERRORS = (torch.AcceleratorError, torch.OutOfMemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanResult:
    """What became of a unit, or of a span that could not be read, or whose rest is returned: its node is leaving."""

    kind: Literal["unit", "suspect", "unreadable", "returned", "fatal"]
    record: UnitRecord | None = None
    span: Span | None = None
    unit: Unit | None = None
    reason: str = ""
    exit_code: int = 1


class SpanWorker:
    """The work of an EncoderActor in the pipeline: pickled span tasks in, pickled results out."""

    def __init__(
        self,
        job: FrozenJob,
        output: str,
        filesystem: Any,
        ledger: Any,
        on_error: str = "keep",
        tracing: Tracing | None = None,
        code: Code | None = None,
    ) -> None:
        self.job = job
        self.output = output
        self.filesystem = filesystem
        self.ledger = ledger
        self.on_error = on_error
        self.tracing = tracing
        self.code = code
        self.is_alone = False
        self._lapped: float | None = None
        self._retries = 0
        self._is_leaving = False

    def starting(self) -> None:
        """Called before the model is loaded; nodes that joined since the run began are checked here."""
        if self.code is not None:
            check_code(self.code, f"an actor on {platform.node()}")
        start_tracing(self.tracing)
        self.ledger.starting.remote(find_place(is_alone=self.is_alone))

    def started(self, actor: EncoderActor) -> None:
        """Called when the model is ready: it must be what the job was frozen with."""
        options = actor.encoder.options
        frozen = self.job.identity["dtype"]
        if options.dtype != frozen:
            raise OutputError(f"dtype: the job was frozen with {frozen}, this actor computes in {options.dtype}")
        if actor.encoder.tokenizer.fingerprint != self.job.identity["tokenizer"]:
            raise OutputError("tokenizer: this actor loaded another one than the job was frozen with")
        store = open_store(self.output)
        if not is_null_there(store, self.job):
            write_null(store, self.job, actor.submit(compute_null).result())
        names = ("device", "dtype", "attention", "token_budget")
        settings = {name: str(getattr(options, name)) for name in names}
        self.ledger.started.remote(
            find_place(is_alone=self.is_alone), settings | {"device": name_device(str(options.device))}
        )
        self._lap()

    def failed(self, error: Exception) -> None:
        """Called when the model could not be made ready: Ray says nothing of an actor that it had started again."""
        import ray

        ray.get(self.ledger.fail.remote(f"{type(error).__name__}: {error}", find_place().actor))

    def _lap(self) -> float:
        """Seconds since this was asked the last time."""
        now = time.perf_counter()
        seconds = 0.0 if self._lapped is None else now - self._lapped
        self._lapped = now
        return seconds

    def __call__(self, actor: EncoderActor, batch: pa.Table) -> pa.Table:
        """Rows of `tasks`, pickled lists of SpanTasks -> rows of `results`, pickled lists of SpanResults."""
        results = [list(self.run(actor, pickle.loads(data))) for data in batch["tasks"].to_pylist()]
        flush_traces()
        return pa.table({"results": pa.array(map(pickle.dumps, results), pa.binary())})

    def run(self, actor: EncoderActor, tasks: Sequence[SpanTask]) -> Iterator[SpanResult]:
        """Encode what is not done of some spans; what goes wrong is a result, so that its neighbours are kept."""
        try:
            with ending_with_card():
                yield from self._run(actor, tasks)
        except T5encError as error:
            yield SpanResult(kind="fatal", reason=str(error), exit_code=error.exit_code)

    def _run(self, actor: EncoderActor, tasks: Sequence[SpanTask]) -> Iterator[SpanResult]:
        pending: Future[UnitRecord] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
            for prepared in prefetch(chain.from_iterable(self.prepare(actor, task) for task in tasks)):
                if isinstance(prepared, SpanResult):
                    yield prepared
                    continue
                if self._is_leaving:
                    yield SpanResult(kind="returned")
                    break
                meter = Meter(actor)
                gains = {"waiting_seconds": self._lap()}
                with trace_unit("encode", prepared.unit):
                    encoded = actor.submit(encode_unit, prepared, self._dtype).result()
                gains |= meter.read() | {"computing_seconds": self._lap()}
                if pending:
                    yield SpanResult(kind="unit", record=pending.result())
                pending = writer.submit(self.commit, prepared, encoded, gains)
            if pending:
                yield SpanResult(kind="unit", record=pending.result())

    def run_suspect(self, actor: EncoderActor, span: Span, unit: Unit, caution: Caution) -> UnitRecord:
        """Encode one unit that is suspected of killing its process, noting each stream before it runs."""
        record = self._find_record(unit)
        if record is not None:
            return record
        alone = dataclasses.replace(span, first_row=unit.first_row, num_rows=unit.num_rows)
        batch = next(self._read(alone, {unit.first_row: unit}))
        prepared = prepare_unit(unit, batch, actor.encoder, tokenize=False)
        with ending_with_card():
            careful = actor.submit(encode_carefully, prepared, self._dtype, caution, self._note).result()
        return self.commit(*careful, {"computing_seconds": self._lap()})

    def prepare(self, actor: EncoderActor, task: SpanTask) -> Iterator[PreparedUnit | SpanResult]:
        """Read and tokenize a span's units in order; results for those that are not to be encoded here and now."""
        cut = task.span.units(rows_per_unit=self.job.rows_per_shard, fingerprint=self.job.fingerprint)
        units = {unit.first_row: unit for unit in cut if unit.first_row not in task.done}
        suspects = self._find_suspects(units.values())
        for row, unit in list(units.items()):
            record = self._find_record(unit)
            if record is not None or unit.id in suspects:
                del units[row]
                kind: Literal["unit", "suspect"] = "suspect" if record is None else "unit"
                yield SpanResult(kind=kind, record=record, span=task.span, unit=unit)
        try:
            batches = self._read(task.span, units)
            for unit in units.values():
                if not self._begin(unit):
                    yield SpanResult(kind="returned", span=task.span)
                    return
                with trace_unit("read", unit), self._forgetting(unit):
                    batch = next(batches)
                with trace_unit("tokenize", unit):
                    prepared = prepare_unit(unit, batch, actor.encoder)
                yield prepared
        except SourceError as error:
            yield SpanResult(kind="unreadable", span=task.span, reason=str(error))

    def _find_record(self, unit: Unit) -> UnitRecord | None:
        """The record of a unit that another run committed since this one began."""
        store = open_store(self.output)
        return read_footer_record(store, unit.name) if store.size(unit.name) is not None else None

    def _read(self, span: Span, units: dict[int, Unit]) -> Iterator[Any]:
        return read_captions(
            self.filesystem,
            span,
            text_column=self.job.identity["text_column"],
            caption_choice=self.job.identity["caption_choice"],
            schema=self.job.kept_schema,
            rows_per_unit=self.job.rows_per_shard,
            skip=lambda row: row not in units,
        )

    def commit(self, prepared: PreparedUnit, encoded: EncodedTexts, gains: dict[str, float]) -> UnitRecord:
        """Write a unit's shard, unless another writer was first; the record of what is there then."""
        start = time.perf_counter()
        table, record = make_shard(prepared, encoded, self.job)
        if self.on_error == "fail" and record.errors:
            raise InputError(_first_error(prepared, table))
        store = open_store(self.output)
        with trace_unit("write", prepared.unit):
            record = commit_shard(store, record, serialize_shard(table, record, self.job))
        gains = gains | {"writing_seconds": time.perf_counter() - start, "store_retries": self._count_retries()}
        self._end(prepared.unit, record, gains, self._find(prepared, table))
        return record

    def _count_retries(self) -> int:
        """Requests to the store that this process has made again since this was asked the last time."""
        before, self._retries = self._retries, count_retries()
        return self._retries - before

    def _find(self, prepared: PreparedUnit, table: pa.Table) -> Findings:
        """What the captions of a unit were like."""
        findings, batch = Findings(), prepared.batch
        findings.count_lengths(prepared.lengths.tolist(), self.job.identity["max_length"])
        places = zip(batch.rows.tolist(), batch.caption_indices.tolist(), strict=True)
        find_reasons(findings, prepared.unit.source, places, table["text_embedding_error"].to_pylist())
        return findings

    @property
    def _dtype(self) -> torch.dtype:
        return working_dtype(self.job.storage_dtype)

    def _find_suspects(self, units: Iterable[Unit]) -> list[str]:
        import ray

        return ray.get(self.ledger.find_suspects.remote([unit.id for unit in units]))  # type: ignore[no-any-return]

    def _begin(self, unit: Unit) -> bool:
        """Noted before any of it is read: reading and tokenizing can kill, too. False where this node is leaving."""
        import ray

        self._is_leaving |= not ray.get(self.ledger.begin.remote(unit.id, find_node()))
        return not self._is_leaving

    @contextlib.contextmanager
    def _forgetting(self, unit: Unit) -> Iterator[None]:
        """A unit that cannot be read has not killed."""
        try:
            yield
        except SourceError:
            self.ledger.forget.remote(unit.id)
            raise

    def _note(self, unit: Unit, captions: list[int]) -> None:
        import ray

        ray.get(self.ledger.note.remote(unit.id, captions))

    def _end(self, unit: Unit, record: UnitRecord, gains: dict[str, float], findings: Findings) -> None:
        import ray

        names = ("input_rows", "captions", "tokens", "errors", "died", "truncated", "size")
        gains = {name: getattr(record, name) for name in names} | gains
        goes_on = ray.get(self.ledger.end.remote(unit.id, find_place().actor, gains, findings, find_node()))
        self._is_leaving |= not goes_on


@contextlib.contextmanager
def ending_with_card() -> Iterator[None]:
    """End the process where its card fails, so that Ray starts another and the units in hand count an attempt."""
    try:
        yield
    except CARD_ERRORS as error:
        print(f"this process ends, its device failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _first_error(prepared: PreparedUnit, table: pa.Table) -> str:
    errors = table["text_embedding_error"].to_pylist()
    place = next(i for i, error in enumerate(errors) if error is not None)
    row = prepared.batch.rows[place]
    return f"{prepared.unit.source}, row {row}: {errors[place]} (on_error is fail)"


class Meter:
    """What an actor gains between two readings, as the ledger wants it."""

    def __init__(self, actor: EncoderActor) -> None:
        self.actor = actor
        self.before = self._measure()

    def read(self) -> dict[str, float]:
        """Differences since this meter was made."""
        return {name: value - self.before[name] for name, value in self._measure().items()}

    def _measure(self) -> dict[str, float]:
        counters = self.actor.encoder.counters
        return {
            "useful_tokens": counters.useful_tokens,
            "stream_tokens": counters.stream_tokens,
            "compiled_graphs": self.actor.encoder.compiled_graphs,
            "busy_seconds": self.actor.busy_seconds,
            "busy_cpu_seconds": self.actor.busy_cpu_seconds,
        }


def prefetch(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """The same items, made by a thread of their own up to `depth` ahead; its exception is raised here."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    is_closed = threading.Event()

    def put(kind: str, item: Any) -> None:
        while not is_closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, item), timeout=0.1)
                return

    def produce() -> None:
        try:
            for item in items:
                put("item", item)
                if is_closed.is_set():
                    return
            put("end", None)
        except BaseException as error:  # handed to the consumer, which raises it
            put("error", error)

    threading.Thread(target=produce, name="reader", daemon=True).start()
    try:
        while (got := ready.get())[0] == "item":
            yield got[1]
        if got[0] == "error":
            raise got[1]
    finally:
        is_closed.set()
