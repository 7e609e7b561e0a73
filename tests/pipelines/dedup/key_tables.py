"""Files of keys made of letters: a letter is a prompt, and its text says where it stands."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipelines.dedup.key_files import SCHEMA, write_keys
from pipelines.dedup.repeats import Repeats
from pipelines.plan.plan import Files, Units
from pipelines.stores.store import Store
from tests.pipelines.small_jobs import make_job, plan_file

ROWS = 4


def lay_out(store: Store, units: Sequence[str]) -> Repeats:
    """A file for each unit of as many letters."""
    job = make_job(rows_per_shard=ROWS)
    planned = Units.of(Files.of([plan_file(rows=ROWS * len(units))]), job)
    for unit, letters in zip(planned.values(), units, strict=True):
        write_keys(store, unit.id, make_rows(letters))
    return Repeats(store, planned.select(range_of(planned)))


def range_of(units: Units) -> pa.Array:
    return pa.array(range(len(units))).to_numpy()


def make_rows(letters: str) -> pa.Table:
    numbers = [ord(letter) for letter in letters]
    return pa.table([numbers, [~number & 0xFF for number in numbers], list(letters)], schema=SCHEMA)
