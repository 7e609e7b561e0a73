"""A unit's content keys and captions as a small file of the output, until it is known which of them occur again.

A file is created once and never changed: whoever is second finds the same keys there. Its rows are the captions of the
unit that have a text, in order; it is Parquet under a name that no reader takes for a shard.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.actors.shards import PreparedUnit
from pipelines.stores.concurrent_map import map_concurrently
from pipelines.stores.store import Store
from t5enc.storage.layout import NOTES
from t5enc.text.content_keys import hash_prompts, split_keys

DISTINCT = f"{NOTES}/distinct"
ENDING = ".keys"
# The halves of a key.
NUMBERS = ("first", "second")
SCHEMA = pa.schema(
    [*(pa.field(name, pa.uint64(), nullable=False) for name in NUMBERS), pa.field("text", pa.large_string())]
)


class KeysGoneError(Exception):
    """A unit's file is not there any more: another run has removed it."""


def name_keys(unit_id: str) -> str:
    """The name of a unit's file."""
    return f"{DISTINCT}/{unit_id}{ENDING}"


def list_keys(store: Store) -> set[str]:
    """The ids of the units whose files are there."""
    names = (name.rpartition("/")[2] for name, _ in store.list(DISTINCT))
    return {name.removesuffix(ENDING) for name in names if name.endswith(ENDING)}


def make_keys(computation: bytes, prepared: PreparedUnit) -> pa.Table:
    """The rows of a unit's file."""
    places = [place for place, prompt in enumerate(prepared.prompts) if prompt is not None]
    keys = hash_prompts(computation, [prepared.prompts[place] for place in places])
    columns = [*split_keys(keys), pa.array([prepared.batch.texts[place] for place in places], pa.large_string())]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write_keys(store: Store, unit_id: str, rows: pa.Table) -> None:
    """Create a unit's file, unless it is there."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", use_dictionary=False)
    store.create(name_keys(unit_id), sink.getvalue())


def read_keys(store: Store, unit_id: str, columns: Sequence[str]) -> pa.Table:
    """Columns of a unit's file; KeysGoneError where another run has removed it."""
    try:
        with store.open(name_keys(unit_id)) as file:
            return pq.read_table(file, columns=list(columns))
    except FileNotFoundError as error:
        raise KeysGoneError(str(error)) from error


def remove_keys(store: Store) -> None:
    """Remove the files of all units."""
    for _ in map_concurrently(store.delete, [name_keys(unit_id) for unit_id in list_keys(store)]):
        pass
