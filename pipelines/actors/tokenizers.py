"""Reading and tokenizing before the encoders, in processes of their own: what a pool of CPU actors does with spans."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator

import pyarrow as pa

from pipelines.actors.handover import Handover
from pipelines.actors.tasks import SpanResult, SpanTask
from pipelines.actors.worker import SpanWorker
from pipelines.progress.places import find_place
from pipelines.progress.tracing import flush_traces
from t5enc.checkpoint.opening import open_model
from t5enc.errors import T5encError
from t5enc.options import EncoderOptions
from t5enc.text.preparer import Preparer, open_preparer


class TokenizerActor:
    """The tokenizer of a job without its model."""

    def __init__(self, options: EncoderOptions, worker: SpanWorker) -> None:
        """Loads the tokenizer, which must be the one that the job was frozen with; `worker` is what encoders get."""
        os.environ.setdefault("RAYON_NUM_THREADS", "1")  # this process has one CPU, and others are at work beside it
        self.reader = worker.reader
        try:
            self.preparer = self._load(options, worker)
        except Exception as error:
            worker.failed(error, "tokenizer")
            raise

    def _load(self, options: EncoderOptions, worker: SpanWorker) -> Preparer:
        worker.join()
        actor = find_place().actor
        worker.ledger.tokenizer_starting.remote(actor)
        preparer = open_preparer(options, open_model(options.source, with_weights=False))
        worker.check_tokenizer(preparer.tokenizer)
        worker.ledger.tokenizer_started.remote(actor)
        return preparer

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Rows of `tasks`, pickled lists of SpanTasks -> a table a unit: `units`, a pickled Handover or SpanResult.

        Ray repeats a call whose process died, and drops the tables that have gone out before by their number: a unit
        has its place among them, whatever becomes of it.
        """
        for tasks in map(pickle.loads, batch["tasks"].to_pylist()):
            for task in tasks:
                for item in self.prepare(task):
                    yield pa.table({"units": pa.array([pickle.dumps(item)], pa.large_binary())})
        flush_traces()

    def prepare(self, task: SpanTask) -> Iterator[Handover | SpanResult]:
        """One item for each unit of a span; what goes wrong is a result."""
        try:
            for item in self.reader.prepare(self.preparer, task):
                if isinstance(item, SpanResult):
                    yield item
                    continue
                packed = Handover.pack(task.span, item)
                self.reader.attempts.hand_over(item.unit)
                yield packed
        except T5encError as error:
            yield SpanResult.fatal(error)
