"""What an EncoderActor does for the pipeline: reads a span once, encodes it unit by unit, commits each.

Three threads overlap: one reads and tokenizes the next unit, the model encodes this one, one writes the last.
Embeddings go from the model to the output and nowhere else; only records return to the driver.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pyarrow as pa
import torch

from pipelines.captions import read_captions
from pipelines.commit import commit_shard
from pipelines.job import FrozenJob
from pipelines.manifest import UnitRecord, read_footer_record
from pipelines.null import compute_null, is_null_there, write_null
from pipelines.shards import (
    Caution,
    PreparedUnit,
    encode_carefully,
    encode_unit,
    make_shard,
    prepare_unit,
)
from pipelines.sinks import serialize_shard
from pipelines.store import open_store
from pipelines.units import Span, Unit
from t5enc.actor import EncoderActor
from t5enc.errors import InputError, OutputError, SourceError, T5encError
from t5enc.storage import working_dtype
from t5enc.text_encoder import EncodedTexts

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanTask:
    """A span to encode, and the units of it that are committed already."""

    span: Span
    done: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanResult:
    """What became of a unit, or of a span that could not be read."""

    kind: Literal["unit", "suspect", "unreadable", "fatal"]
    record: UnitRecord | None = None
    span: Span | None = None
    unit: Unit | None = None
    reason: str = ""
    exit_code: int = 1


class SpanWorker:
    """The work of an EncoderActor in the pipeline: pickled span tasks in, pickled results out."""

    def __init__(self, job: FrozenJob, output: str, filesystem: Any, ledger: Any, on_error: str = "keep") -> None:
        self.job = job
        self.output = output
        self.filesystem = filesystem
        self.ledger = ledger
        self.on_error = on_error

    def starting(self) -> None:
        """Called before the model is loaded."""
        self.ledger.starting.remote()

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
        self.ledger.started.remote({name: str(getattr(options, name)) for name in names})

    def __call__(self, actor: EncoderActor, batch: pa.Table) -> pa.Table:
        """A table of one column of pickled SpanTasks -> a table of one column of pickled SpanResults."""
        results: list[bytes] = []
        for data in batch["task"].to_pylist():
            results += map(pickle.dumps, self.run(actor, pickle.loads(data)))
        return pa.table({"result": pa.array(results, pa.binary())})

    def run(self, actor: EncoderActor, task: SpanTask) -> Iterator[SpanResult]:
        """Encode what is not done of a span; what goes wrong is a result, so that its neighbours are kept."""
        try:
            yield from self._run(actor, task)
        except T5encError as error:
            yield SpanResult(kind="fatal", reason=str(error), exit_code=error.exit_code)

    def _run(self, actor: EncoderActor, task: SpanTask) -> Iterator[SpanResult]:
        pending: Future[UnitRecord] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
            for prepared in prefetch(self.prepare(actor, task)):
                if isinstance(prepared, SpanResult):
                    yield prepared
                    continue
                meter = Meter(actor)
                encoded = actor.submit(encode_unit, prepared, self._dtype).result()
                gains = meter.read()
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
        careful = actor.submit(encode_carefully, prepared, self._dtype, caution, self._note)
        return self.commit(*careful.result(), {})

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
                self._begin(unit)
                yield prepare_unit(unit, next(batches), actor.encoder)
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
        table, record = make_shard(prepared, encoded, self.job)
        if self.on_error == "fail" and record.errors:
            raise InputError(_first_error(prepared, table))
        store = open_store(self.output)
        record = commit_shard(store, record, serialize_shard(table, record, self.job))
        self._end(prepared.unit, record, gains)
        return record

    @property
    def _dtype(self) -> torch.dtype:
        return working_dtype(self.job.storage_dtype)

    def _find_suspects(self, units: Iterable[Unit]) -> list[str]:
        import ray

        return ray.get(self.ledger.find_suspects.remote([unit.id for unit in units]))  # type: ignore[no-any-return]

    def _begin(self, unit: Unit) -> None:
        """Noted before any of it is read: reading and tokenizing can kill, too."""
        import ray

        ray.get(self.ledger.begin.remote(unit.id))

    def _note(self, unit: Unit, captions: list[int]) -> None:
        import ray

        ray.get(self.ledger.note.remote(unit.id, captions))

    def _end(self, unit: Unit, record: UnitRecord, gains: dict[str, float]) -> None:
        names = ("input_rows", "captions", "tokens", "errors", "truncated", "size")
        self.ledger.end.remote(unit.id, {name: getattr(record, name) for name in names} | gains)


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
