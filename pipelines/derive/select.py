"""Select: the rows of an output for which a condition holds, in an output of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipelines.derive.committing import Derived, Tell, write_derived
from pipelines.derive.conditions import Condition
from pipelines.derive.origins import Origin, derive_job, open_origin
from pipelines.derive.pieces import Piece
from t5enc.errors import ConfigError
from t5enc.storage import PREFIX, list_columns

BYTES = f"{PREFIX}bytes"


def select_rows(
    path: str, where: str | None, output: str, *, columns: Sequence[str] | None = None, tell: Tell = lambda _, __: None
) -> Derived:
    """Write the rows of an output for which SQL holds, or all, or go on with that; with `columns` no other kept ones.

    ConfigError for SQL that is no condition on its columns, and where it holds for no row: nothing is written then.
    """
    origin = open_origin(path)
    kept = choose_kept(origin, columns)
    if where is None:
        pieces = [Piece(origin=origin, record=record, source=record.source) for record in origin.records]
    else:
        pieces = list(find_pieces(origin, Condition(where, list_known(origin))))
    if not pieces:
        raise ConfigError(f"where: {where}: expected at least one row of {origin.shown}, got none. Nothing was written")
    job = derive_job([origin], kept, {"command": "select", "where": where, "columns": kept.names})
    return write_derived(output, [origin], pieces, job, tell=tell)


def choose_kept(origin: Origin, columns: Sequence[str] | None) -> pa.Schema:
    """The kept columns of these names, in the order in which they are; ConfigError for one that is not there."""
    kept = origin.job.kept_schema
    for name in columns or ():
        if name not in kept.names:
            raise ConfigError(f"columns: expected some of {', '.join(kept.names)}, got {name!r}")
    return kept if columns is None else pa.schema([field for field in kept if field.name in columns])


def list_known(origin: Origin) -> pa.Schema:
    """The columns that a condition may name: all but the embeddings themselves."""
    job = origin.job
    made = list_columns(job.storage_dtype, has_keys=job.has_keys, has_references=job.has_references)
    return pa.schema([*job.kept_schema, *(field for field in made if field.name != BYTES)])


def find_pieces(origin: Origin, condition: Condition) -> Iterator[Piece]:
    """The shards with a row for which the condition holds."""
    for record in origin.records:
        if not record.counts.captions:
            continue
        with origin.open(record) as file:
            table = file.read(columns=condition.schema.names)
        chosen = condition.choose(table)
        if chosen.any():
            packed = None if chosen.all() else np.packbits(chosen)
            yield Piece(origin=origin, record=record, source=record.source, packed=packed)
