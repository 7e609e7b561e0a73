"""Which prompts occur more than once, and where first: DuckDB groups the keys of all units, on disk where need be.

A place is the number of a caption's unit above 32 bits, and its row in the unit's file of keys below.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.dedup.key_files import NUMBERS, read_keys
from pipelines.plan.plan import Selection
from pipelines.stores.concurrent_map import map_concurrently
from pipelines.stores.store import Store
from t5enc.errors import OutputError

# Why nothing can be written to a folder.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EACCES, errno.EROFS)
PLACE_BITS = 32
PLACE = pa.field("place", pa.int64(), nullable=False)
KEYED = pa.schema([*(pa.field(name, pa.uint64(), nullable=False) for name in NUMBERS), PLACE])
# What DuckDB holds before it goes on on disk; of each key it needs about 40 bytes.
MEMORY = "4GB"
GROUPED = f"""
SELECT min(place) AS place, count(*) AS count FROM keyed GROUP BY {", ".join(NUMBERS)}
HAVING count(*) > 1 {{condition}} ORDER BY place
"""
# Those of one unit are encoded once anyway.
ACROSS_UNITS = f"AND min(place) >> {PLACE_BITS} <> max(place) >> {PLACE_BITS}"


@contextlib.contextmanager
def in_temporary_folder(what: str) -> Iterator[None]:
    """OutputError where the temporary folder, in which this is done, is full or gone; other errors as they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OutputError(
            f"TMPDIR: {what} in the temporary folder {_name_temporary()}, and cannot be: {error}; make room, or set "
            "TMPDIR to a folder that has some"
        ) from error


def _name_temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "that is not there"


@dataclass(slots=True)
class Tally:
    """What a pass finds: captions that have a key, and how many have one of the `distinct` keys that occur again."""

    captions: int = 0
    repeated: int = 0
    distinct: int = 0


@dataclass(frozen=True, slots=True)
class Repeats:
    """The captions of the units of a plan whose files of keys are there."""

    store: Store
    units: Selection
    tally: Tally = field(default_factory=Tally)
    lost: list[Exception] = field(default_factory=list)

    def find(self, *, within_units: bool) -> Iterator[NDArray[np.int64]]:
        """First places of the prompts that occur more than once, in order, some thousands at a time.

        Without `within_units` only those that occur in several units. KeysGoneError where another run has removed a
        file; OutputError where the temporary folder is full or gone.
        """
        import duckdb

        query = GROUPED.format(condition="" if within_units else ACROSS_UNITS)
        with in_temporary_folder("content keys are grouped"):
            folder = tempfile.TemporaryDirectory(prefix="t5enc-keys-")
        with folder as spill, duckdb.connect() as connection:
            connection.execute(f"SET memory_limit = '{MEMORY}'; SET preserve_insertion_order = false")
            connection.execute("SET temp_directory = $folder", {"folder": spill})
            connection.register("keyed", pa.RecordBatchReader.from_batches(KEYED, self._read()))
            try:
                yield from map(self._count, connection.sql(query).to_arrow_reader())
            except duckdb.Error as error:
                if self.lost:
                    raise self.lost[0] from error
                raise OutputError(
                    f"{tempfile.gettempdir()}: content keys are grouped there, and cannot be after "
                    f"{self.tally.captions:,}: {str(error).splitlines()[0]}; make room, or set TMPDIR to a folder that "
                    "has some"
                ) from error

    def _count(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        self.tally.distinct += len(batch)
        self.tally.repeated += int(np.sum(batch["count"].to_numpy()))
        places: NDArray[np.int64] = batch["place"].to_numpy()
        return places

    def _read(self) -> Iterator[pa.RecordBatch]:
        """What goes wrong here is no longer itself when DuckDB tells it."""
        try:
            yield from self._number()
        except Exception as error:
            self.lost.append(error)
            raise

    def _number(self) -> Iterator[pa.RecordBatch]:
        tables = map_concurrently(lambda unit: read_keys(self.store, unit.id, NUMBERS), self.units)
        for number, table in zip(self.units.numbers.tolist(), tables, strict=True):
            self.tally.captions += len(table)
            places = np.arange(len(table), dtype=np.int64) | number << PLACE_BITS
            yield from table.append_column(PLACE, pa.array(places)).cast(KEYED).to_batches()

    def read_texts(self, places: Iterator[NDArray[np.int64]]) -> Iterator[pa.Array]:
        """The captions of places in order, those of a unit together."""
        parts = ((number, rows) for some in places for number, rows in _part(some))
        yield from map_concurrently(partial(_read_texts, self.store, self.units.units), parts)


def _part(places: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """The rows of each unit, by its number."""
    numbers, starts = np.unique(places >> PLACE_BITS, return_index=True)
    rows = np.split(places & ((1 << PLACE_BITS) - 1), starts[1:])
    return zip(numbers.tolist(), rows, strict=True)


def _read_texts(store: Store, units: Any, part: tuple[int, NDArray[np.int64]]) -> pa.Array:
    number, rows = part
    texts = read_keys(store, units.at(number).id, ["text"])["text"]
    return texts.take(pa.array(rows)).combine_chunks()
