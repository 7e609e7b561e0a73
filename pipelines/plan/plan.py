"""The plan of work as columns: files as Arrow arrays, and units as arithmetic over them.

A driver can hold a hundred thousand files and millions of units this way: a unit's number is its place in input
order, and its rows, name and id are worked out when they are asked for. A file is cut in one or more stretches, each
into units of equal rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.inputs.listing import decode_path, encode_path
from pipelines.inputs.sources import make_source
from pipelines.job import FrozenJob
from pipelines.plan.density import Density
from pipelines.plan.units import Limits, PlannedFile, Span, Unit, cut_stretches, make_unit
from t5enc.storage.layout import name_folder

FILES_A_PIECE = 8192
DENSITY = pa.struct([pa.field(name, pa.int64(), nullable=False) for name in ("rows", "captions", "bytes")])
# A local path may be no text.
TYPES = {"source": pa.string(), "path": pa.binary(), "digest": pa.string()}
FILE_SCHEMA = pa.schema(
    [
        *(
            pa.field(name, TYPES.get(name, pa.int64()), nullable=False)
            for name in ("source", "path", "size", "modified", "num_rows", "largest_group", "digest")
        ),
        pa.field("densities", pa.list_(pa.field("item", DENSITY, nullable=False)), nullable=False),
    ]
)
STRETCH = np.dtype([(name, np.int64) for name in ("place", "first_row", "num_rows", "rows_per_unit")])
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

    @property
    def densities(self) -> Iterator[list[Density]]:
        """Those of each file."""
        for piece in self.table["densities"].chunks:
            yield from ([Density(**density) for density in densities] for densities in piece.to_pylist())

    def named(self, sources: Sequence[str]) -> Files:
        """The same files by other names."""
        return Files(self.table.set_column(0, FILE_SCHEMA.field(0), pa.array(sources, pa.string())))

    def in_order(self) -> Files:
        """As readers of the output sort what is made of them."""
        folders = [name_folder(source) for source in self.table["source"].to_pylist()]
        return Files(self.table.take(pc.sort_indices(pa.array(folders, pa.string()))))

    @cached_property
    def total_rows(self) -> int:
        """Rows of all files."""
        return int(self.num_rows.sum())


def _to_file(row: Mapping[str, Any]) -> PlannedFile:
    file = make_source(row["source"], decode_path(row["path"]), row["size"], row["modified"])
    rest = {name: row[name] for name in ("num_rows", "largest_group", "digest")}
    return PlannedFile(file=file, **rest, densities=tuple(Density(**density) for density in row["densities"]))


def _to_batch(files: Sequence[PlannedFile]) -> pa.RecordBatch:
    columns = {
        name: [getattr(planned.file, name) for planned in files] for name in ("source", "path", "size", "modified")
    }
    columns["path"] = [encode_path(path) for path in columns["path"]]
    columns |= {name: [getattr(planned, name) for planned in files] for name in ("num_rows", "largest_group", "digest")}
    columns["densities"] = [[asdict(density) for density in planned.densities] for planned in files]
    return pa.RecordBatch.from_pydict(columns, FILE_SCHEMA)


def _cut_files(files: Files, limits: Limits) -> Iterator[tuple[int, int, int, int]]:
    """Rows of `STRETCH`, in order."""
    for place, (num_rows, densities) in enumerate(zip(files.num_rows.tolist(), files.densities, strict=True)):
        row = 0
        for stretch in cut_stretches(num_rows, densities, limits):
            yield place, row, stretch.num_rows, stretch.rows_per_unit
            row += stretch.num_rows


class Units(Mapping[str, Unit]):
    """The units that a frozen job cuts files into, by name, in input order."""

    def __init__(
        self,
        files: Files,
        *,
        rows_per_unit: int,
        fingerprint: str,
        captions_per_unit: int | None = None,
        bytes_per_unit: int | None = None,
    ) -> None:
        self.files = files
        self.limits = Limits(rows=rows_per_unit, captions=captions_per_unit, bytes=bytes_per_unit)
        self.fingerprint = fingerprint
        self.stretches: NDArray[np.void] = np.fromiter(_cut_files(files, self.limits), STRETCH)
        counts = -(-self.stretches["num_rows"] // self.stretches["rows_per_unit"])
        # The number of each stretch's first unit, and of all units.
        self.first_units: NDArray[np.int64] = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        self._file = lru_cache(FILES_AT_HAND)(files.at)

    @classmethod
    def of(cls, files: Files, frozen: FrozenJob) -> Units:
        """Those of a frozen job."""
        return cls(
            files,
            rows_per_unit=frozen.rows_per_shard,
            captions_per_unit=frozen.captions_per_shard,
            bytes_per_unit=frozen.bytes_per_shard,
            fingerprint=frozen.fingerprint,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_units, (self.files, self.limits, self.fingerprint)

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
        index = int(np.searchsorted(self.first_units, number, side="right")) - 1
        return self._make(index, number - int(self.first_units[index]))

    def _make(self, index: int, number: int) -> Unit:
        """A unit by its number within its stretch."""
        stretch = self.stretch(index)
        row = stretch.first_row + number * stretch.rows_per_unit
        rows = min(stretch.rows_per_unit, stretch.first_row + stretch.num_rows - row)
        return make_unit(stretch, row, rows, self.fingerprint)

    def stretch(self, index: int) -> Span:
        """All rows of a stretch."""
        place, first_row, num_rows, rows_per_unit = self.stretches[index].tolist()
        return self._file(place).span(first_row, num_rows, rows_per_unit)

    def largest_group(self, index: int) -> int:
        """Rows of the largest row group in the file of a stretch."""
        return self._file(int(self.stretches["place"][index])).largest_group

    def find(self, name: str) -> int | None:
        """The number of the unit whose shard has this name, None where there is none."""
        folder, _, file = name.rpartition("/")
        row, _, _ = file.partition("-")
        place = self._places.get(folder)
        if place is not None and row.isdecimal() and int(row) < self.files.num_rows[place]:
            number = self.find_row(place, int(row))
            if self.at(number).name == name:
                return number
        return None

    def find_row(self, place: int, row: int) -> int:
        """The number of the unit of a file's row."""
        start, stop = np.searchsorted(self.stretches["place"], [place, place + 1]).tolist()
        index = start + int(np.searchsorted(self.stretches["first_row"][start:stop], row, side="right")) - 1
        stretch = self.stretches[index]
        return int(self.first_units[index]) + (row - int(stretch["first_row"])) // int(stretch["rows_per_unit"])

    @cached_property
    def _places(self) -> dict[str, int]:
        sources = self.files.table["source"].to_pylist()
        return {name_folder(source): place for place, source in enumerate(sources)}

    def select(self, numbers: NDArray[np.int64]) -> Selection:
        """Units of these numbers."""
        return Selection(self, numbers)

    def find_modified(self) -> NDArray[np.int64]:
        """When the file of each unit, by number, was written, 0 where that is not known."""
        of_files: NDArray[np.int64] = self.files.table["modified"].to_numpy()
        return np.repeat(of_files[self.stretches["place"]], np.diff(self.first_units))

    def count_rows(self, chosen: NDArray[np.bool_]) -> int:
        """Input rows of the units that are chosen, of all of them by number."""
        size = self.stretches["rows_per_unit"]
        counts = np.diff(np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen)])[self.first_units])
        missing = np.diff(self.first_units) * size - self.stretches["num_rows"]
        last = self.first_units[1:] - 1
        is_cut = missing > 0
        return int((counts * size).sum()) - int((missing[is_cut] * chosen[last[is_cut]]).sum())


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


def _make_units(files: Files, limits: Limits, fingerprint: str) -> Units:
    return Units(
        files,
        rows_per_unit=limits.rows,
        captions_per_unit=limits.captions,
        bytes_per_unit=limits.bytes,
        fingerprint=fingerprint,
    )
