"""The captions that occur more than once, in a file of their own: written once for each generation of a job.

Whatever becomes of the inputs: as long as the file is there it counts, so that rows that refer to its embeddings go on
to. It has no rows where nothing occurs twice.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit.records import read_metadata
from pipelines.dedup.key_files import DISTINCT
from pipelines.dedup.repeats import Repeats, Tally, in_temporary_folder
from pipelines.stores.store import Store

COLUMN = "caption"
SCHEMA = pa.schema([pa.field(COLUMN, pa.large_string(), nullable=False)])
TALLY_KEY = b"t5enc.repeats"
GROUP_ROWS = 8192


def name_captions(generation: int) -> str:
    """The file's name in an output."""
    return f"{DISTINCT}/captions-{generation}"


def read_found(store: Store, generation: int) -> Tally | None:
    """What the file of a generation says of itself, None where there is none yet."""
    read = read_metadata(store, name_captions(generation))
    return None if read is None else Tally(**json.loads(read[0].metadata[TALLY_KEY]))


def write_captions(store: Store, generation: int, repeats: Repeats, *, within_units: bool) -> None:
    """Write the file, unless another run was first.

    KeysGoneError where one has removed what it is made of, OutputError where the temporary folder is full or gone.
    """
    with contextlib.ExitStack() as stack:
        with in_temporary_folder("repeated captions are put together"):
            file = stack.enter_context(tempfile.TemporaryFile())
            with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
                for group in _group(repeats.read_texts(repeats.find(within_units=within_units))):
                    writer.write_table(pa.Table.from_arrays([pa.chunked_array(group)], schema=SCHEMA))
                writer.add_key_value_metadata({TALLY_KEY: json.dumps(asdict(repeats.tally))})
            file.flush()
        store.create(name_captions(generation), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _group(parts: Iterable[pa.Array]) -> Iterator[list[pa.Array]]:
    """Enough of them for a row group."""
    held: list[pa.Array] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= GROUP_ROWS:
            yield held
            held = []
    if held:
        yield held
