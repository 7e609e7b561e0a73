"""What is known of each committed unit: a record in its shard's footer, and a row of columns in the driver."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.commit.counts import MAXIMA, Counts, names_of
from pipelines.plan.plan import Units
from pipelines.plan.units import Unit
from pipelines.stores.store import Store
from t5enc.errors import OutputError
from t5enc.storage.layout import RECORD_KEY, name_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """One row of the manifest: a shard and what is in it; `modified` as its unit had it, 0 for unknown."""

    name: str
    source: str
    first_row: int
    content: str
    counts: Counts
    modified: int = 0

    def with_size(self, size: int) -> UnitRecord:
        """The same of a shard of so many bytes, which its own footer cannot know."""
        return replace(self, counts=replace(self.counts, size=size))

    def to_row(self) -> dict[str, Any]:
        """Its row of the manifest."""
        row = {name: getattr(self, name) for name in OWN} | asdict(self.counts)
        return {name: row[name] for name in FIELDS}

    @classmethod
    def from_row(cls, row: Any) -> UnitRecord:
        """The record of a row; ValueError or TypeError for anything else.

        A count that an earlier release did not make is 0, one that a later release makes too is passed over. A shard
        keeps what stands in its footer when an output moves to another format: only the last part of its name counts.
        """
        values = {name: value for name, value in dict(row).items() if name in FIELDS or type(value) is not int}
        name, source = values.get("name"), values.get("source")
        if isinstance(name, str) and isinstance(source, str):
            values["name"] = f"{name_folder(source)}/{name.rpartition('/')[2]}"
        counts = Counts(**{name: values.pop(name) for name in COUNTS if name in values})
        return cls(counts=counts, **values)

    def to_json(self) -> str:
        """What stands in a footer, and in the log."""
        return json.dumps(self.to_row())

    @classmethod
    def from_json(cls, data: bytes) -> UnitRecord:
        """The record of a footer or a log line; ValueError or TypeError for anything else."""
        values = json.loads(data)
        record = cls.from_row(values)
        for name, value in values.items():
            if type(value) is not (str if name in TEXTS else int):
                raise TypeError(f"{name}: expected {'text' if name in TEXTS else 'a whole number'}, got {value!r}")
        return record


COUNTS = names_of(Counts)
TEXTS = ("name", "source", "content")
# In this order; the size stands last because a footer does not know it.
OWN = ("name", "source", "first_row", "modified", "content")
FIELDS = ("name", "source", "first_row", "modified", *(name for name in COUNTS if name != "size"), "content", "size")
SCHEMA = pa.schema([pa.field(name, pa.string() if name in TEXTS else pa.int64(), nullable=False) for name in FIELDS])
# How long a hash of content is.
CONTENT_BYTES = 64
ROW = np.dtype([*((name, np.int64) for name in COUNTS), ("modified", np.int64), ("content", f"S{CONTENT_BYTES}")])
# Units of a piece of the manifest.
PIECE = 1 << 16


class Records(MutableMapping[str, UnitRecord]):
    """Records of a plan's units by name, as columns: memory is touched only where a unit has one."""

    def __init__(self, units: Units) -> None:
        self.units = units
        self.is_there: NDArray[np.bool_] = np.zeros(len(units), np.bool_)
        self.rows: NDArray[np.void] = np.zeros(len(units), ROW)
        # Objects of the log that strike names out and were there before any record was read, or are of this run.
        self.struck_out: set[str] = set()
        # Shards that this run has put aside.
        self.num_aside = 0

    def put(self, number: int, record: UnitRecord) -> None:
        """Note the record of the unit of a number; ValueError or TypeError for what cannot be one."""
        content = record.content.encode("ascii")
        if len(content) > CONTENT_BYTES:
            raise ValueError(f"{record.name}: expected a hash of {CONTENT_BYTES} characters, got {record.content!r}")
        self.rows[number] = (*(getattr(record.counts, name) for name in COUNTS), record.modified, content)
        self.is_there[number] = True

    def at(self, number: int) -> UnitRecord:
        """The record of the unit of a number, which has one."""
        return make_record(self.units.at(number), self.rows[number])

    def __getitem__(self, name: str) -> UnitRecord:
        number = self.units.find(name)
        if number is None or not self.is_there[number]:
            raise KeyError(name)
        return self.at(number)

    def __setitem__(self, name: str, record: UnitRecord) -> None:
        number = self.units.find(name)
        if number is None:
            raise KeyError(name)
        self.put(number, record)

    def __delitem__(self, name: str) -> None:
        number = self.units.find(name)
        if number is None or not self.is_there[number]:
            raise KeyError(name)
        self.is_there[number] = False

    def __iter__(self) -> Iterator[str]:
        return (unit.name for unit in self.units.select(np.flatnonzero(self.is_there)))

    def __len__(self) -> int:
        return int(np.count_nonzero(self.is_there))

    def are_touched(self) -> NDArray[np.bool_]:
        """Units whose file was written again since their shards were made, though size and footer are the same."""
        then, now = self.rows["modified"], self.units.find_modified()
        touched: NDArray[np.bool_] = self.is_there & (then != 0) & (now != 0) & (then != now)
        return touched

    @property
    def left(self) -> NDArray[np.int64]:
        """Numbers of the units without a record."""
        return np.flatnonzero(~self.is_there)

    def totals(self) -> dict[str, int]:
        """Shards, and what is counted of all of them."""
        return {"shards": len(self)} | {name: self._total(name) for name in COUNTS}

    def _total(self, name: str) -> int:
        column = self.rows[name]
        join = column.max if name in MAXIMA else column.sum
        return int(join(initial=0, where=self.is_there))

    def find_bare(self) -> list[str]:
        """Sources of the files that are committed whole, and of which no caption has an embedding."""
        stretches = self.units.stretches["place"]
        places = np.repeat(stretches, np.diff(self.units.first_units))
        left, captions, encoded = (
            np.bincount(places, weights=values, minlength=len(self.units.files))
            for values in (~self.is_there, self.rows["captions"], self.rows["encoded"])
        )
        bare = np.flatnonzero((left == 0) & (captions > 0) & (encoded == 0)).tolist()
        return [self.units.files.at(place).file.source for place in bare]

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """All units' rows of the manifest in order, some thousands at a time; every unit has a record."""
        for start in range(0, len(self.units), PIECE):
            rows = self.rows[start : start + PIECE]
            units = self.units.select(np.arange(start, start + len(rows)))
            columns: dict[str, Any] = {"name": [], "source": [], "first_row": []}
            for unit in units:
                columns["name"].append(unit.name)
                columns["source"].append(unit.source)
                columns["first_row"].append(unit.first_row)
            columns |= {name: np.ascontiguousarray(rows[name]) for name in ("modified", *COUNTS)}
            columns["content"] = pa.array(rows["content"], pa.binary()).cast(pa.string())
            yield pa.RecordBatch.from_pydict(columns, SCHEMA)


def make_record(unit: Unit, row: np.void) -> UnitRecord:
    """A unit's record from its row of columns."""
    return UnitRecord(
        name=unit.name,
        source=unit.source,
        first_row=unit.first_row,
        content=row["content"].decode(),
        modified=int(row["modified"]),
        counts=Counts(**{name: int(row[name]) for name in COUNTS}),
    )


def read_footer_record(store: Store, name: str) -> UnitRecord | None:
    """A shard's own record, or None where the shard is damaged, gone or not the one of this name."""
    record = read_record(store, name)
    return None if record is None or record.name != name else record


def read_record(store: Store, name: str) -> UnitRecord | None:
    """The record in a file's footer, or None where the file is damaged, gone or none of ours."""
    found = read_metadata(store, name)
    return None if found is None else parse_record(*found)


def read_metadata(store: Store, name: str) -> tuple[Any, int] | None:
    """The footer of a Parquet file and the file's size, or None where that is damaged, gone or no such file.

    A store that does not answer is no damage: OutputError, and the file stays.
    """
    try:
        with store.open(name) as file:
            size = file.size()
            footer = _read_footer_bytes(file, size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{name}: cannot be read: {error}") from error
    try:
        return pq.read_metadata(pa.BufferReader(footer)), size
    except (pa.ArrowInvalid, OSError):
        return None


def parse_record(metadata: Any, size: int) -> UnitRecord | None:
    """The record of a footer; None where there is none, or one of other rows."""
    try:
        record = UnitRecord.from_json(metadata.metadata[RECORD_KEY])
    except (KeyError, TypeError, ValueError):
        return None
    return record.with_size(size) if metadata.num_rows == record.counts.captions else None


def _read_footer_bytes(file: Any, size: int) -> bytes:
    """The footer with its length and magic, as far as they are there; whether they are sound is for Parquet to say."""
    tail = file.read_at(min(8, size), max(0, size - 8))
    length = min(size, int.from_bytes(tail[:4], "little") + 8)
    return bytes(file.read_at(length, size - length))
