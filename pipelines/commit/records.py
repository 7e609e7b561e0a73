"""What is known of each committed unit: a record in its shard's footer, and a row of columns in the driver."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.plan.plan import Units
from pipelines.plan.units import Unit
from pipelines.stores.store import Store
from t5enc.errors import OutputError

RECORD_KEY = b"t5enc.unit"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """One row of the manifest: a shard and what is in it."""

    name: str
    source: str
    first_row: int
    input_rows: int
    captions: int
    encoded: int
    errors: int
    died: int
    truncated: int
    tokens: int
    longest: int
    content: str
    size: int = 0

    @classmethod
    def from_json(cls, data: bytes) -> UnitRecord:
        """The record of a footer or a log line; ValueError or TypeError for anything else."""
        values = json.loads(data)
        record = cls(**values)
        for name, value in values.items():
            if type(value) is not (str if name in TEXTS else int):
                raise TypeError(f"{name}: expected {'text' if name in TEXTS else 'a whole number'}, got {value!r}")
        return record


TEXTS = ("name", "source", "content")
FIELDS = tuple(entry.name for entry in dataclasses.fields(UnitRecord))
SCHEMA = pa.schema([pa.field(name, pa.string() if name in TEXTS else pa.int64(), nullable=False) for name in FIELDS])
# What a unit does not tell of its record, and how long a hash of content is.
COUNTS = ("captions", "encoded", "errors", "died", "truncated", "tokens", "longest", "size")
CONTENT_BYTES = 64
ROW = np.dtype([*((name, np.int64) for name in COUNTS), ("content", f"S{CONTENT_BYTES}")])
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

    def put(self, number: int, record: UnitRecord) -> None:
        """Note the record of the unit of a number; ValueError or TypeError for what cannot be one."""
        content = record.content.encode("ascii")
        if len(content) > CONTENT_BYTES:
            raise ValueError(f"{record.name}: expected a hash of {CONTENT_BYTES} characters, got {record.content!r}")
        self.rows[number] = (*(getattr(record, name) for name in COUNTS), content)
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

    @property
    def left(self) -> NDArray[np.int64]:
        """Numbers of the units without a record."""
        return np.flatnonzero(~self.is_there)

    def totals(self) -> dict[str, int]:
        """Sums over what is there."""
        sums = {name: int(self.rows[name].sum(where=self.is_there)) for name in COUNTS if name != "longest"}
        longest = int(self.rows["longest"].max(initial=0, where=self.is_there))
        return {"shards": len(self), "input_rows": self.units.count_rows(self.is_there)} | sums | {"longest": longest}

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """All units' rows of the manifest in order, some thousands at a time; every unit has a record."""
        for start in range(0, len(self.units), PIECE):
            rows = self.rows[start : start + PIECE]
            units = self.units.select(np.arange(start, start + len(rows)))
            columns: dict[str, Any] = {"name": [], "source": [], "first_row": [], "input_rows": []}
            for unit in units:
                columns["name"].append(unit.name)
                columns["source"].append(unit.source)
                columns["first_row"].append(unit.first_row)
                columns["input_rows"].append(unit.num_rows)
            columns |= {name: np.ascontiguousarray(rows[name]) for name in COUNTS}
            columns["content"] = pa.array(rows["content"], pa.binary()).cast(pa.string())
            yield pa.RecordBatch.from_pydict(columns, SCHEMA)


def make_record(unit: Unit, row: np.void) -> UnitRecord:
    """A unit's record from its row of columns."""
    return UnitRecord(
        name=unit.name,
        source=unit.source,
        first_row=unit.first_row,
        input_rows=unit.num_rows,
        content=row["content"].decode(),
        **{name: int(row[name]) for name in COUNTS},
    )


def read_footer_record(store: Store, name: str) -> UnitRecord | None:
    """A shard's own record, or None where the shard is damaged or gone.

    A store that does not answer is no damage: OutputError, and the shard stays.
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
        metadata = pq.read_metadata(pa.BufferReader(footer))
        record = UnitRecord.from_json(metadata.metadata[RECORD_KEY])
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError):
        return None
    if metadata.num_rows != record.captions or record.name != name:
        return None
    return dataclasses.replace(record, size=size)


def _read_footer_bytes(file: Any, size: int) -> bytes:
    """The footer with its length and magic, as far as they are there; whether they are sound is for Parquet to say."""
    tail = file.read_at(min(8, size), max(0, size - 8))
    length = min(size, int.from_bytes(tail[:4], "little") + 8)
    return bytes(file.read_at(length, size - length))
