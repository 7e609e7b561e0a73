"""The plan of work: files, cut into units that are committed whole, dispatched in spans of several units.

A unit is a run of rows of one file, and its id depends on what it says and how it is encoded, never on where or
when: a copied, touched or re-mounted input tree plans the same units. Where a span ends has no bearing on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipelines.inputs.sources import SourceFile
from pipelines.plan.density import ROWS, Density
from t5enc.storage.layout import name_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """A source file and what its footer says: rows, rows of the largest row group, a digest, and how dense rows are.

    Without `densities` each row has one caption and few bytes.
    """

    file: SourceFile
    num_rows: int
    largest_group: int
    digest: str
    densities: tuple[Density, ...] = ()

    def span(self, first_row: int, num_rows: int, rows_per_unit: int) -> Span:
        """These rows of the file, in units of so many."""
        return Span(
            file=self.file,
            digest=self.digest,
            first_row=first_row,
            num_rows=num_rows,
            rows_per_unit=rows_per_unit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a unit holds at most, as its file's footer tells; one row may be more. None is no limit."""

    rows: int
    captions: int | None = None
    bytes: int | None = None

    def count_rows(self, density: Density) -> int:
        """Rows of a unit."""
        rows = self.rows
        if self.captions is not None:
            rows = min(rows, ROWS * self.captions // density.captions)
        if self.bytes is not None:
            rows = min(rows, self.bytes // density.bytes)
        return max(1, rows)


@dataclass(slots=True, kw_only=True)
class Stretch:
    """Rows of a file that are cut into units of so many, the last of which may be shorter."""

    num_rows: int
    rows_per_unit: int

    @property
    def num_units(self) -> int:
        """How many units it is cut into."""
        return -(-self.num_rows // self.rows_per_unit)


def cut_stretches(num_rows: int, densities: Sequence[Density], limits: Limits) -> list[Stretch]:
    """The rows of a file in order: where density changes so do units, unless that would make more of them."""
    stretches: list[Stretch] = []
    for density in densities or [Density(rows=num_rows)]:
        alone = Stretch(num_rows=density.rows, rows_per_unit=limits.count_rows(density))
        if stretches:
            last = stretches[-1]
            rows = min(last.rows_per_unit, alone.rows_per_unit)
            together = Stretch(num_rows=last.num_rows + alone.num_rows, rows_per_unit=rows)
            if together.num_units <= last.num_units + alone.num_units:
                stretches[-1] = together
                continue
        stretches.append(alone)
    return stretches


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows of one file that become one shard; `modified` is when the file was written, as far as known, or 0."""

    source: str
    first_row: int
    num_rows: int
    id: str
    modified: int = 0

    @property
    def name(self) -> str:
        """The shard's name: sorting names sorts rows."""
        return name_shard(self.source, self.first_row, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of units of one file that one actor call reads once and encodes."""

    file: SourceFile
    digest: str
    first_row: int
    num_rows: int
    rows_per_unit: int

    def cut(self) -> Iterator[range]:
        """The rows of each unit in order."""
        end = self.first_row + self.num_rows
        starts = range(self.first_row, end, self.rows_per_unit)
        return (range(row, min(row + self.rows_per_unit, end)) for row in starts)

    def units(self, *, fingerprint: str) -> Iterator[Unit]:
        """The span's units in order."""
        return (make_unit(self, rows.start, len(rows), fingerprint) for rows in self.cut())


def make_unit(span: Span, first_row: int, num_rows: int, fingerprint: str) -> Unit:
    """The unit of these rows; `fingerprint` is the frozen job's."""
    parts = (span.file.source, span.file.size, span.digest, first_row, num_rows, fingerprint)
    key = "\0".join(str(part) for part in parts)
    return Unit(
        source=span.file.source,
        first_row=first_row,
        num_rows=num_rows,
        id=hashlib.sha256(key.encode()).hexdigest()[:16],
        modified=span.file.modified,
    )


# A row group is decoded from its start whenever a span begins inside it: no more often than this.
MOST_READS_OF_A_GROUP = 8


def cut_spans(stretch: Span, largest_group: int, *, units_per_span: int) -> Iterator[Span]:
    """Spans of whole units that cover a stretch, large enough that no row group is read over and over."""
    size = stretch.rows_per_unit
    fewest = -(-largest_group // (MOST_READS_OF_A_GROUP * size))
    rows, end = size * max(units_per_span, fewest), stretch.first_row + stretch.num_rows
    for row in range(stretch.first_row, end, rows):
        yield replace(stretch, first_row=row, num_rows=min(rows, end - row))
