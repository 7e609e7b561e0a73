"""A prepared unit on its way from the process that tokenized it to the one that encodes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipelines.shards import PreparedUnit
from pipelines.units import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Picklable: ids and reasons in `prepared`, kept columns in `kept` as Arrow's stream; texts stay behind.

    `span` is where the unit is read again if it turns out to kill.
    """

    span: Span
    prepared: PreparedUnit
    kept: Any

    @classmethod
    def pack(cls, span: Span, prepared: PreparedUnit) -> Handover:
        """Arrow writes no more than the unit's own rows, where a pickled slice takes its neighbours along."""
        table, sink = prepared.batch.kept, pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        bare = replace(prepared.batch, kept=None, texts=[], reasons=[])
        return cls(span=span, prepared=replace(prepared, batch=bare), kept=sink.getvalue())

    def unpack(self) -> PreparedUnit:
        """The unit, ready to be encoded."""
        kept = pa.ipc.open_stream(self.kept).read_all()
        return replace(self.prepared, batch=replace(self.prepared.batch, kept=kept))
