"""The plan as an output notes it: which inputs were encoded, as they were then, and when they had been written."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.plan.plan import FILE_SCHEMA, Files
from pipelines.stores.store import Store
from t5enc.storage.layout import PLAN

PLANNED = ("source", "size", "modified", "num_rows", "digest", "densities")
# What an input is known by.
TOLD_APART_BY = ("source", "size", "digest")


def write_plan(store: Store, files: Files, redone: Collection[str] = ()) -> None:
    """Note which inputs a job encoded, and when these were written: of those that were not redone, as noted before."""
    times = _read_times(store)
    keys = zip(*(files.table[name].to_pylist() for name in TOLD_APART_BY), strict=True)
    modified = [
        now if key[0] in redone else times.get(key) or now
        for key, now in zip(keys, files.table["modified"].to_pylist(), strict=True)
    ]
    table = files.table.select(PLANNED)
    place = table.schema.get_field_index("modified")
    table = table.set_column(place, table.schema.field(place), pa.array(modified, pa.int64()))
    store.replace(PLAN, to_parquet([table], table.schema))


def find_touched(store: Store, files: Files) -> set[str]:
    """Sources that are, by size and footer, what was encoded of them, but were written again since."""
    times = _read_times(store)
    keys = zip(*(files.table[name].to_pylist() for name in TOLD_APART_BY), strict=True)
    now = zip(keys, files.table["modified"].to_pylist(), strict=True)
    return {key[0] for key, modified in now if times.get(key, 0) not in (0, modified)}


def _read_times(store: Store) -> dict[tuple[str, int, str], int]:
    """When the inputs that a job encoded were written, as far as that was noted; a damaged plan tells nothing."""
    try:
        table = read_plan(store).table
    except (FileNotFoundError, NotADirectoryError, pa.ArrowException, KeyError, OSError):
        return {}
    keys = zip(*(table[name].to_pylist() for name in TOLD_APART_BY), strict=True)
    return dict(zip(keys, table["modified"].to_pylist(), strict=True))


def read_plan(store: Store, name: str = PLAN) -> Files:
    """What `write_plan` noted: enough to cut the same units again, not to read them."""
    table = pq.read_table(pa.BufferReader(store.read(name)))
    rest = {"path": pa.array([b""] * len(table)), "largest_group": table["num_rows"]}
    if "modified" not in table.column_names:
        rest["modified"] = pa.array([0] * len(table))
    if "densities" not in table.column_names:  # of a release that cut by rows alone
        rest["densities"] = pa.array([[]] * len(table), FILE_SCHEMA.field("densities").type)
    columns = {name: rest[name] if name in rest else table[name] for name in FILE_SCHEMA.names}
    return Files(pa.table(columns, FILE_SCHEMA))


def to_parquet(pieces: Iterable[pa.RecordBatch | pa.Table], schema: pa.Schema) -> pa.Buffer:
    """Rows of a table, some at a time, as the bytes of a Parquet file with a row group for each piece."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema) as writer:
        for piece in pieces:
            writer.write(piece)
    return sink.getvalue()
