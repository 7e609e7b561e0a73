"""The plan of work as columns: files as Arrow arrays, and units as arithmetic over them.

A driver can hold a hundred thousand files and millions of units this way: a unit's number is its place in input
order, and its rows, name and id are worked out when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.inputs.sources import SourceFile, read_partitions
from pipelines.plan.units import RENAMED, PlannedFile, Unit, make_unit

FILES_A_PIECE = 8192
FILE_SCHEMA = pa.schema(
    [
        pa.field(name, pa.string() if name in ("source", "path", "digest") else pa.int64(), nullable=False)
        for name in ("source", "path", "size", "num_rows", "largest_group", "digest")
    ]
)
# Files of which a unit was asked for last: neighbours ask for the same one.
FILES_AT_HAND = 64


class Files(Sequence[PlannedFile]):
    """Planned files in input order, as a table of `FILE_SCHEMA`."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        self.num_rows: NDArray[np.int64] = self.table["num_rows"].to_numpy()

    @classmethod
    def of(cls, files: Iterable[PlannedFile]) -> Files:
        """Files that are told one by one, none of which is kept."""
        told = iter(files)
        pieces = iter(lambda: list(islice(told, FILES_A_PIECE)), [])
        return cls(pa.Table.from_batches(map(_to_batch, pieces), FILE_SCHEMA))

    @overload
    def __getitem__(self, index: int) -> PlannedFile: ...

    @overload
    def __getitem__(self, index: slice) -> Files: ...

    def __getitem__(self, index: int | slice) -> PlannedFile | Files:
        places = range(len(self))[index]
        return self.at(places) if isinstance(places, int) else Files(self.table.take(pa.array(places, pa.int64())))

    def at(self, place: int) -> PlannedFile:
        """The file of a place."""
        (row,) = self.table.slice(place, 1).to_pylist()
        return _to_file(row)

    def __iter__(self) -> Iterator[PlannedFile]:
        return (_to_file(row) for piece in self.table.to_batches(FILES_A_PIECE) for row in piece.to_pylist())

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def total_rows(self) -> int:
        """Rows of all files."""
        return int(self.num_rows.sum())


def _to_file(row: Mapping[str, Any]) -> PlannedFile:
    source = str(row["source"])
    file = SourceFile(source=source, path=row["path"], size=row["size"], partitions=read_partitions(source))
    return PlannedFile(file=file, num_rows=row["num_rows"], largest_group=row["largest_group"], digest=row["digest"])


def _to_batch(files: Sequence[PlannedFile]) -> pa.RecordBatch:
    columns = {name: [getattr(planned.file, name) for planned in files] for name in ("source", "path", "size")}
    columns |= {name: [getattr(planned, name) for planned in files] for name in ("num_rows", "largest_group", "digest")}
    return pa.RecordBatch.from_pydict(columns, FILE_SCHEMA)


class Units(Mapping[str, Unit]):
    """The units that a frozen job cuts files into, by name, in input order."""

    def __init__(self, files: Files, *, rows_per_unit: int, fingerprint: str) -> None:
        self.files = files
        self.rows_per_unit = rows_per_unit
        self.fingerprint = fingerprint
        counts = -(-files.num_rows // rows_per_unit)
        # The number of each file's first unit, and of all units.
        self.first_units: NDArray[np.int64] = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        self._file = lru_cache(FILES_AT_HAND)(files.at)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_units, (self.files, self.rows_per_unit, self.fingerprint)

    def __len__(self) -> int:
        return int(self.first_units[-1])

    def __iter__(self) -> Iterator[str]:
        return (unit.name for unit in self.select(np.arange(len(self))))

    def __getitem__(self, name: str) -> Unit:
        number = self.find(name)
        if number is None:
            raise KeyError(name)
        return self.at(number)

    def at(self, number: int) -> Unit:
        """The unit of a number."""
        place = int(np.searchsorted(self.first_units, number, side="right")) - 1
        return self._make(place, number - int(self.first_units[place]))

    def _make(self, place: int, number: int) -> Unit:
        """A unit by its number within its file."""
        planned = self._file(place)
        row = number * self.rows_per_unit
        whole = planned.span(0, planned.num_rows)
        return make_unit(whole, row, min(self.rows_per_unit, planned.num_rows - row), self.fingerprint)

    def find(self, name: str) -> int | None:
        """The number of the unit whose shard has this name, None where there is none."""
        folder, _, file = name.rpartition("/")
        row, _, _ = file.partition("-")
        for source in (folder, folder.removeprefix(RENAMED)):
            place = self._places.get(source)
            if place is not None and row.isdecimal():
                number = int(row) // self.rows_per_unit
                first, end = self.first_units[place : place + 2]
                if number < end - first and self._make(place, number).name == name:
                    return number + int(first)
        return None

    @cached_property
    def _places(self) -> dict[str, int]:
        return {source: place for place, source in enumerate(self.files.table["source"].to_pylist())}

    def select(self, numbers: NDArray[np.int64]) -> Selection:
        """Units of these numbers."""
        return Selection(self, numbers)

    def count_rows(self, chosen: NDArray[np.bool_]) -> int:
        """Input rows of the units that are chosen, of all of them by number."""
        missing = np.diff(self.first_units) * self.rows_per_unit - self.files.num_rows
        last = self.first_units[1:] - 1
        is_cut = missing > 0
        return int(chosen.sum()) * self.rows_per_unit - int((missing[is_cut] * chosen[last[is_cut]]).sum())


class Selection(Sequence[Unit]):
    """Some units of a plan, each made when it is asked for."""

    def __init__(self, units: Units, numbers: NDArray[np.int64]) -> None:
        self.units = units
        self.numbers = numbers

    @overload
    def __getitem__(self, index: int) -> Unit: ...

    @overload
    def __getitem__(self, index: slice) -> Selection: ...

    def __getitem__(self, index: int | slice) -> Unit | Selection:
        chosen = self.numbers[index]
        return Selection(self.units, chosen) if isinstance(index, slice) else self.units.at(int(chosen))

    def __len__(self) -> int:
        return len(self.numbers)


def _make_units(files: Files, rows_per_unit: int, fingerprint: str) -> Units:
    return Units(files, rows_per_unit=rows_per_unit, fingerprint=fingerprint)
