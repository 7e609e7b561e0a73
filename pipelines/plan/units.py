"""The plan of work: files, cut into units that are committed whole, dispatched in spans of several units.

A unit is a run of rows of one file, and its id depends on what it says and how it is encoded, never on where or
when: a copied, touched or re-mounted input tree plans the same units. Where a span ends has no bearing on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.inputs.sources import SourceFile
from t5enc.output import LOG, MANIFEST, PLAN, STALE, TEMPORARY

# Sources of these names (a captions file called manifest.parquet) get a folder of another name in the output. It
# may be a second source's folder too: shards of different units never have the same name.
RESERVED = (LOG, MANIFEST, PLAN, STALE, TEMPORARY)
RENAMED = "source_"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """A source file and what its footer says: rows, rows of the largest row group, a digest."""

    file: SourceFile
    num_rows: int
    largest_group: int
    digest: str

    def span(self, first_row: int, num_rows: int) -> Span:
        """These rows of the file."""
        return Span(file=self.file, digest=self.digest, first_row=first_row, num_rows=num_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows of one file that become one shard."""

    source: str
    first_row: int
    num_rows: int
    id: str

    @property
    def name(self) -> str:
        """The shard's name: sorting names sorts rows."""
        folder = f"{RENAMED}{self.source}" if self.source.partition("/")[0] in RESERVED else self.source
        return f"{folder}/{self.first_row:012d}-{self.id}.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of units of one file that one actor call reads once and encodes."""

    file: SourceFile
    digest: str
    first_row: int
    num_rows: int

    def units(self, *, rows_per_unit: int, fingerprint: str) -> Iterator[Unit]:
        """The span's units in order."""
        end = self.first_row + self.num_rows
        for row in range(self.first_row, end, rows_per_unit):
            yield make_unit(self, row, min(rows_per_unit, end - row), fingerprint)


def make_unit(span: Span, first_row: int, num_rows: int, fingerprint: str) -> Unit:
    """The unit of these rows; `fingerprint` is the frozen job's."""
    parts = (span.file.source, span.file.size, span.digest, first_row, num_rows, fingerprint)
    key = "\0".join(str(part) for part in parts)
    return Unit(
        source=span.file.source,
        first_row=first_row,
        num_rows=num_rows,
        id=hashlib.sha256(key.encode()).hexdigest()[:16],
    )


# A row group is decoded from its start whenever a span begins inside it: no more often than this.
MOST_READS_OF_A_GROUP = 8


def cut_spans(planned: PlannedFile, *, rows_per_unit: int, units_per_span: int) -> Iterator[Span]:
    """Spans of whole units that cover the file, large enough that no row group is read over and over."""
    fewest = -(-planned.largest_group // (MOST_READS_OF_A_GROUP * rows_per_unit))
    rows = rows_per_unit * max(units_per_span, fewest)
    for row in range(0, planned.num_rows, rows):
        yield planned.span(row, min(rows, planned.num_rows - row))
