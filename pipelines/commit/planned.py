"""The plan as an output notes it: which inputs were encoded, as they were then."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.plan.plan import FILE_SCHEMA, Files
from pipelines.stores.store import Store
from t5enc.storage.layout import PLAN

PLANNED = ("source", "size", "num_rows", "digest", "densities")


def write_plan(store: Store, files: Files) -> None:
    """Note which inputs a job encoded, for `fsck`."""
    table = files.table.select(PLANNED)
    store.replace(PLAN, to_parquet([table], table.schema))


def read_plan(store: Store, name: str = PLAN) -> Files:
    """What `write_plan` noted: enough to cut the same units again, not to read them."""
    table = pq.read_table(pa.BufferReader(store.read(name)))
    rest = {
        "path": pa.array([b""] * len(table)),
        "modified": pa.array([0] * len(table)),
        "largest_group": table["num_rows"],
    }
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
