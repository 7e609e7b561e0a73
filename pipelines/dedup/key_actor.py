"""What a pool of CPU actors does before any encoder starts: units read and tokenized, and their content keys noted."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from pipelines.actors.shards import PreparedUnit
from pipelines.actors.tasks import SpanResult, SpanTask
from pipelines.actors.tokenizers import TokenizerActor
from pipelines.actors.worker import SpanWorker
from pipelines.commit.counts import Cost, Counts
from pipelines.commit.records import UnitRecord
from pipelines.dedup.key_files import make_keys, name_keys, write_keys
from pipelines.progress.findings import Findings
from pipelines.progress.tracing import flush_traces
from pipelines.stores.store import open_store
from t5enc.errors import T5encError
from t5enc.options import EncoderOptions


class KeyActor(TokenizerActor):
    """A tokenizer that writes down keys instead of handing prompts over."""

    def __init__(self, options: EncoderOptions, worker: SpanWorker) -> None:
        super().__init__(options, worker)
        self.store = open_store(worker.output)
        self.computation = worker.job.computation

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Rows of `tasks`, pickled lists of SpanTasks -> `results`, pickled lists of SpanResults."""
        results = [
            [result for task in pickle.loads(data) for result in self.note_keys(task)]
            for data in batch["tasks"].to_pylist()
        ]
        flush_traces()
        yield pa.table({"results": pa.array(map(pickle.dumps, results), pa.binary())})

    def note_keys(self, task: SpanTask) -> Iterator[SpanResult]:
        """Write the files of a span's units that are not there; what goes wrong is a result."""
        try:
            for item in self.reader.prepare(self.preparer, self._without_known(task)):
                yield item if isinstance(item, SpanResult) else self._note(item)
        except T5encError as error:
            yield SpanResult.fatal(error)

    def _without_known(self, task: SpanTask) -> SpanTask:
        """Another run, or a process that died, may have written some since the task was cut."""
        units = task.span.units(fingerprint=self.reader.job.fingerprint)
        left = (unit for unit in units if unit.first_row not in task.done)
        known = {unit.first_row for unit in left if self.store.size(name_keys(unit.id)) is not None}
        return replace(task, done=task.done | known)

    def _note(self, prepared: PreparedUnit) -> SpanResult:
        unit = prepared.unit
        write_keys(self.store, unit.id, make_keys(self.computation, prepared))
        counts = Counts(input_rows=unit.num_rows, captions=len(prepared.prompts))
        record = UnitRecord(name=unit.name, source=unit.source, first_row=unit.first_row, content="", counts=counts)
        self.reader.attempts.end(unit, record, Cost(), Findings())
        return SpanResult(kind="unit", unit=unit)
