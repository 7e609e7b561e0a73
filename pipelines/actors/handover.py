"""A prepared unit on its way from the process that tokenized it to the one that encodes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.actors.shards import PreparedUnit
from pipelines.plan.units import Span
from t5enc.recipes.recipe import Finish
from t5enc.text.prompts import Document, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatPrompts:
    """Prompts as three arrays, which travel in a fraction of the time that as many objects take.

    `ids` of all documents end to end; a row of `documents` for each: its tokens, keys, kept rows, and the place of its
    finish in `finishes`; `counts` of each prompt's documents, -1 for a caption without a prompt.
    """

    ids: NDArray[np.int32]
    documents: NDArray[np.int64]
    counts: NDArray[np.int64]
    finishes: tuple[Finish, ...]

    @classmethod
    def of(cls, prompts: Sequence[Prompt | None]) -> FlatPrompts:
        """The same, flat."""
        documents = [document for prompt in prompts if prompt is not None for document in prompt.documents]
        finishes = tuple(dict.fromkeys(document.finish for document in documents))
        rows = [(len(one.ids), one.keys, one.kept, finishes.index(one.finish)) for one in documents]
        return cls(
            ids=np.concatenate([np.empty(0, np.int32), *(document.ids for document in documents)]),
            documents=np.array(rows, np.int64).reshape(-1, 4),
            counts=np.array([-1 if prompt is None else len(prompt.documents) for prompt in prompts], np.int64),
            finishes=finishes,
        )

    def restore(self) -> list[Prompt | None]:
        """The prompts, whose ids are parts of one array."""
        documents = self._cut()
        counts = self.counts.tolist()
        return [None if count < 0 else Prompt(tuple(next(documents) for _ in range(count))) for count in counts]

    def _cut(self) -> Iterator[Document]:
        start = 0
        for length, keys, kept, finish in self.documents.tolist():
            yield Document(self.ids[start : start + length], keys, kept, self.finishes[finish])
            start += length


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Picklable: ids in `prompts`, kept columns as Arrow's streams in `kept`, the rest in `prepared`; no texts.

    `span` is where the unit is read again if it turns out to kill.
    """

    span: Span
    prepared: PreparedUnit
    prompts: FlatPrompts
    kept: tuple[Any, Any]

    @classmethod
    def pack(cls, span: Span, prepared: PreparedUnit) -> Handover:
        """Arrow writes no more than the unit's own rows, where a pickled slice takes its neighbours along."""
        columns = prepared.batch.columns
        bare = replace(columns, captions=None, beside=None)
        return cls(
            span=span,
            prepared=replace(prepared, batch=replace(prepared.batch, columns=bare, texts=[], reasons=[]), prompts=[]),
            prompts=FlatPrompts.of(prepared.prompts),
            kept=(_to_stream(columns.captions), _to_stream(columns.beside)),
        )

    def unpack(self) -> PreparedUnit:
        """The unit, ready to be encoded."""
        captions, beside = (pa.ipc.open_stream(stream).read_all() for stream in self.kept)
        columns = replace(self.prepared.batch.columns, captions=captions, beside=beside)
        batch = replace(self.prepared.batch, columns=columns)
        return replace(self.prepared, batch=batch, prompts=self.prompts.restore())


def _to_stream(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()
