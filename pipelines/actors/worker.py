"""What an EncoderActor does for the pipeline: encodes units and commits them, each with its record.

It reads and tokenizes them itself, or takes them from tokenizers. Either way three steps overlap: one thread gets the
next unit ready, the model encodes this one, one writes the last. Embeddings go from the model to the output and
nowhere else; only records return to the driver.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipelines.actors.attempts import Attempts
from pipelines.actors.handover import Handover
from pipelines.actors.picklable_lock import PicklableLock
from pipelines.actors.prefetching import prefetch
from pipelines.actors.reader import UnitReader
from pipelines.actors.shard_writer import ShardWriter
from pipelines.actors.shards import Caution, PreparedUnit, encode_carefully, encode_unit, join_encoded, prepare_unit
from pipelines.actors.tasks import SpanResult, SpanTask
from pipelines.actors.throughput import read_throughput
from pipelines.commit.counts import Cost
from pipelines.commit.null import compute_null, is_null_there, write_null
from pipelines.commit.protocol import commit_shard
from pipelines.commit.records import UnitRecord
from pipelines.job import FrozenJob
from pipelines.nodes.versions import Code, check_code
from pipelines.plan.units import Span, Unit
from pipelines.progress.findings import Findings, find_reasons
from pipelines.progress.ledger import Kind
from pipelines.progress.places import find_place, name_device
from pipelines.progress.tracing import Tracing, flush_traces, start_tracing, trace_unit
from pipelines.reuse.copying import Copied, EarlierRows
from pipelines.stores.retrying import count_retries
from pipelines.stores.store import open_store
from t5enc.actor import EncoderActor
from t5enc.errors import InputError, OutputError, T5encError
from t5enc.storage import working_dtype
from t5enc.text.tokenizer import Tokenizer
from t5enc.text_encoder import EncodedTexts

# What PyTorch raises where a card is broken, or full: the next process may get another.
CARD_ERRORS = (torch.AcceleratorError, torch.OutOfMemoryError)


class SpanWorker:
    """The work of an EncoderActor in the pipeline: pickled span tasks or prepared units in, pickled results out."""

    def __init__(
        self,
        job: FrozenJob,
        output: str,
        filesystem: Any,
        ledger: Any,
        on_error: str = "keep",
        tracing: Tracing | None = None,
        code: Code | None = None,
        earlier: EarlierRows | None = None,
    ) -> None:
        """`earlier` are outputs to copy embeddings from."""
        self.job = job
        self.output = output
        self.ledger = ledger
        self.on_error = on_error
        self.tracing = tracing
        self.code = code
        self.earlier = earlier
        self.attempts = Attempts(ledger)
        self.reader = UnitReader(job, output, filesystem, self.attempts)
        self.is_alone = False
        self._encoding, self._writing, self._counting = PicklableLock(), PicklableLock(), PicklableLock()
        self._lapped: float | None = None
        self._retries = 0

    def join(self) -> None:
        """Called in every process of the job first; nodes that joined since the run began are checked here."""
        if self.code is not None:
            check_code(self.code, f"an actor on {platform.node()}")
        start_tracing(self.tracing)

    def starting(self) -> None:
        """Called before the model is loaded."""
        self.join()
        self.ledger.starting.remote(find_place(is_alone=self.is_alone))

    def started(self, actor: EncoderActor) -> None:
        """Called when the model is ready: it must be what the job was frozen with."""
        options = actor.encoder.options
        frozen = self.job.identity["dtype"]
        if options.dtype != frozen:
            raise OutputError(f"dtype: the job was frozen with {frozen}, this actor computes in {options.dtype}")
        self.check_tokenizer(actor.encoder.tokenizer)
        store = open_store(self.output)
        if not is_null_there(store, self.job):
            write_null(store, self.job, actor.submit(compute_null).result())
        if self.earlier is not None:
            self.earlier.open()
        names = ("device", "dtype", "attention", "token_budget")
        settings = {name: str(getattr(options, name)) for name in names}
        self.ledger.started.remote(
            find_place(is_alone=self.is_alone), settings | {"device": name_device(str(options.device))}
        )
        self._lap()

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """OutputError where it is not the one that the job was frozen with."""
        if tokenizer.fingerprint != self.job.identity["tokenizer"]:
            raise OutputError("tokenizer: this actor loaded another one than the job was frozen with")

    def failed(self, error: Exception, kind: Kind = "encoder") -> None:
        """Called when an actor could not be made ready: Ray says nothing of one that it had started again."""
        import ray

        ray.get(self.ledger.fail.remote(f"{type(error).__name__}: {error}", find_place().actor, kind))

    def _lap(self) -> float:
        """Seconds since this was asked the last time."""
        now = time.perf_counter()
        seconds = 0.0 if self._lapped is None else now - self._lapped
        self._lapped = now
        return seconds

    def __call__(self, actor: EncoderActor, batch: pa.Table) -> pa.Table:
        """Rows of `results`, pickled lists of SpanResults, for those of `tasks`, pickled lists of SpanTasks.

        Or for those of `units`, pickled Handovers, or SpanResults for the driver. These may come on several threads.
        """
        if "units" in batch.column_names:
            results = [[self.run_unit(actor, pickle.loads(data))] for data in batch["units"].to_pylist()]
        else:
            results = [list(self.run(actor, pickle.loads(data))) for data in batch["tasks"].to_pylist()]
        flush_traces()
        return pa.table({"results": pa.array(map(pickle.dumps, results), pa.binary())})

    def run(self, actor: EncoderActor, tasks: Sequence[SpanTask]) -> Iterator[SpanResult]:
        """Encode what is not done of some spans; what goes wrong is a result, so that its neighbours are kept."""
        try:
            with ending_with_card():
                yield from self._run(actor, tasks)
        except T5encError as error:
            yield SpanResult.fatal(error)

    def _run(self, actor: EncoderActor, tasks: Sequence[SpanTask]) -> Iterator[SpanResult]:
        pending: Future[UnitRecord] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
            prepared_units = chain.from_iterable(self.reader.prepare(actor.encoder, task) for task in tasks)
            for prepared in prefetch(prepared_units):
                if isinstance(prepared, SpanResult):
                    yield prepared
                    continue
                if self.attempts.is_leaving:
                    yield SpanResult(kind="returned")
                    break
                shard, cost = self._encode(actor, prepared)
                if pending:
                    yield SpanResult(kind="unit", record=pending.result())
                pending = writer.submit(self.commit, shard, cost)
            if pending:
                yield SpanResult(kind="unit", record=pending.result())

    def run_unit(self, actor: EncoderActor, item: Handover | SpanResult) -> SpanResult:
        """Encode a unit that a tokenizer has prepared; what became of it instead is passed on."""
        if isinstance(item, SpanResult):
            return item
        try:
            return self._run_unit(actor, item)
        except T5encError as error:
            return SpanResult.fatal(error)

    def _run_unit(self, actor: EncoderActor, handover: Handover) -> SpanResult:
        unit = handover.prepared.unit
        record = self.reader.find_record(unit)  # of a process that died before it could tell
        if record is not None:
            return SpanResult(kind="unit", record=record)
        if self.attempts.find_suspects([unit]):
            return SpanResult(kind="suspect", span=handover.span, unit=unit)
        prepared = handover.unpack()
        with self._encoding:  # two calls at most: one is encoded while the other is written
            if not self.attempts.begin(unit):
                return SpanResult(kind="returned", span=handover.span)
            with ending_with_card(self._writing):
                shard, cost = self._encode(actor, prepared)
        with self._writing:
            return SpanResult(kind="unit", record=self.commit(shard, cost))

    def _encode(self, actor: EncoderActor, prepared: PreparedUnit) -> tuple[ShardWriter, Cost]:
        """The shard of a unit whose last piece is encoded, and the work since the last one was there."""
        before, waited = read_throughput(actor), self._lap()
        shard = ShardWriter(prepared, self.job, prepared.rows)
        with trace_unit("encode", prepared.unit):
            for piece in shard.pieces:
                shard.add(piece, *self._encode_piece(actor, shard, piece))
        cost = Cost(waiting_seconds=waited, computing_seconds=self._lap())
        return shard, cost + (read_throughput(actor) - before)

    def _encode_piece(
        self, actor: EncoderActor, shard: ShardWriter, piece: slice
    ) -> tuple[EncodedTexts, NDArray[np.uint8] | None, Copied | None]:
        """Its embeddings, its content keys, and what was copied of it while the model computed the rest."""

        def encode(chosen: NDArray[np.bool_] | None = None) -> Future[EncodedTexts]:
            return actor.submit(encode_unit, shard.prepared, self._dtype, piece, shard.probe.take, chosen)

        if self.earlier is None:
            return encode().result(), None, None
        keys = shard.hash_prompts(piece)
        wanted = self.earlier.look_up(keys, np.array(shard.prepared.rows[piece], np.int64))
        rest = np.ones(len(keys), bool)
        rest[wanted.places] = False
        computing = encode(rest)
        copied = self.earlier.copy(wanted)
        lost = ~rest & ~copied.is_there
        encoded = computing.result()
        return join_encoded(encoded, encode(lost).result()) if lost.any() else encoded, keys, copied

    def run_suspect(self, actor: EncoderActor, span: Span, unit: Unit, caution: Caution) -> UnitRecord:
        """Encode one unit that is suspected of killing its process, noting each stream before it runs."""
        record = self.reader.find_record(unit)
        if record is not None:
            return record
        prepared = prepare_unit(unit, self.reader.read_unit(span, unit), actor.encoder, tokenize=False)
        shard = ShardWriter(prepared, self.job, [self.job.identity["max_length"]] * len(prepared.prompts))
        with ending_with_card():
            for piece in shard.pieces:
                care = (self._dtype, piece, caution, self.attempts.note)
                shard.add(piece, actor.submit(encode_carefully, prepared, *care).result())
        return self.commit(shard, Cost(computing_seconds=self._lap()))

    def commit(self, shard: ShardWriter, cost: Cost) -> UnitRecord:
        """Write a unit's shard, unless another writer was first; the record of what is there then."""
        start = time.perf_counter()
        record, data = shard.finish()
        prepared = shard.prepared
        if self.on_error == "fail" and record.counts.errors:
            raise InputError(_first_error(prepared, shard.errors))
        store = open_store(self.output)
        with trace_unit("write", prepared.unit):
            record = commit_shard(store, record, data)
        cost += Cost(writing_seconds=time.perf_counter() - start, store_retries=self._count_retries())
        self.attempts.end(prepared.unit, record, cost, self._find(shard))
        return record

    def _count_retries(self) -> int:
        """Requests to the store that this process has made again since this was asked the last time."""
        with self._counting:
            before, self._retries = self._retries, count_retries()
            return self._retries - before

    def _find(self, shard: ShardWriter) -> Findings:
        """What the captions of a unit were like, and what storing them cost."""
        prepared, errors = shard.prepared, shard.errors
        findings, batch = Findings(storage=shard.probe.measure(self.job.storage_dtype)), prepared.batch
        findings.count_lengths(prepared.lengths.tolist(), self.job.identity["max_length"])
        places = zip(batch.rows.tolist(), batch.caption_indices.tolist(), strict=True)
        find_reasons(findings, prepared.unit.source, places, errors)
        findings.add(shard.findings)
        return findings

    @property
    def _dtype(self) -> torch.dtype:
        return working_dtype(self.job.storage_dtype)


@contextlib.contextmanager
def ending_with_card(writing: PicklableLock | None = None) -> Iterator[None]:
    """End the process where its card fails, so that Ray starts another and the units in hand count an attempt.

    Not before it is this one's turn to write: a unit that is encoded already is committed first.
    """
    try:
        yield
    except CARD_ERRORS as error:
        print(f"this process ends, its device failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        with writing or contextlib.nullcontext():
            os._exit(1)


def _first_error(prepared: PreparedUnit, errors: Sequence[str | None]) -> str:
    place = next(i for i, error in enumerate(errors) if error is not None)
    row = prepared.batch.rows[place]
    return f"{prepared.unit.source}, row {row}: {errors[place]} (on_error is fail)"
