"""What prepares units: reads a span once as a stream, and tokenizes what is not done of it, unit by unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Iterator
from typing import Any

from pipelines.actors.attempts import Attempts
from pipelines.actors.captions import CaptionBatch, read_captions
from pipelines.actors.shards import PreparedUnit, Prepares, prepare_unit
from pipelines.actors.tasks import SpanResult, SpanTask
from pipelines.commit.records import UnitRecord, read_footer_record
from pipelines.inputs.columns.frozen import read_kept_schema
from pipelines.job import FrozenJob
from pipelines.plan.units import Span, Unit
from pipelines.progress.tracing import trace_unit
from pipelines.stores.store import open_store
from t5enc.errors import SourceError


class UnitReader:
    """Reads the inputs of a job."""

    def __init__(self, job: FrozenJob, output: str, filesystem: Any, attempts: Attempts) -> None:
        self.job = job
        self.output = output
        self.filesystem = filesystem
        self.attempts = attempts

    def prepare(self, preparer: Prepares, task: SpanTask) -> Iterator[PreparedUnit | SpanResult]:
        """Read and tokenize a span's units in order.

        One item for each unit that was not done when the task was cut: prepared, or what became of it instead. How
        many they are, and which is which, stays the same however often a task is repeated.
        """
        cut = task.span.units(fingerprint=self.job.fingerprint)
        units = [unit for unit in cut if unit.first_row not in task.done]
        settled = self._settle(task.span, units)
        batches = self.read(task.span, {unit.first_row for unit in units} - set(settled))
        is_over = False
        for unit in units:
            item = settled.get(unit.first_row)
            if item is None and is_over:
                item = SpanResult(kind="returned", span=task.span)
            if item is not None:
                yield item
                continue
            prepared = self._prepare(preparer, task.span, unit, batches)
            is_over = isinstance(prepared, SpanResult)
            yield prepared

    def _settle(self, span: Span, units: Iterable[Unit]) -> dict[int, SpanResult]:
        """By their first row, units that another run has committed meanwhile, and those that have killed."""
        suspects = self.attempts.find_suspects(units)
        settled = {}
        for unit in units:
            record = self.find_record(unit)
            if record is not None:
                settled[unit.first_row] = SpanResult(kind="unit", record=record)
            elif unit.id in suspects:
                settled[unit.first_row] = SpanResult(kind="suspect", span=span, unit=unit)
        return settled

    def _prepare(
        self, preparer: Prepares, span: Span, unit: Unit, batches: Iterator[CaptionBatch]
    ) -> PreparedUnit | SpanResult:
        if not self.attempts.begin(unit):
            return SpanResult(kind="returned", span=span)
        try:
            with trace_unit("read", unit):
                batch = next(batches)
            with trace_unit("tokenize", unit):
                return prepare_unit(unit, batch, preparer)
        except SourceError as error:
            self.attempts.forget(unit)
            return SpanResult(kind="unreadable", span=span, reason=str(error))

    def read_unit(self, span: Span, unit: Unit) -> CaptionBatch:
        """The captions of one unit of a span."""
        alone = dataclasses.replace(span, first_row=unit.first_row, num_rows=unit.num_rows)
        return next(self.read(alone, {unit.first_row}))

    def read(self, span: Span, wanted: Container[int]) -> Iterator[CaptionBatch]:
        """The captions of those units of a span whose first row is wanted."""
        return read_captions(
            self.filesystem,
            span,
            text_column=self.job.identity["text_column"],
            caption_choice=self.job.identity["caption_choice"],
            schema=read_kept_schema(self.job),
            skip=lambda row: row not in wanted,
        )

    def find_record(self, unit: Unit) -> UnitRecord | None:
        """The record of a unit that is committed already: by another run since this one began, or by a dead process."""
        store = open_store(self.output)
        return read_footer_record(store, unit.name) if store.size(unit.name) is not None else None
