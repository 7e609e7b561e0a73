"""Checks that each row of an output that refers to an embedding stored once leads to one of the same content key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.stores.concurrent_map import map_concurrently
from pipelines.stores.store import Store
from t5enc.storage import KEY, SHARED_ROW
from t5enc.storage.layout import MANIFEST, SHARED

KEY_DTYPE = np.dtype("V16")
# What stands for a row without an embedding.
NO_KEY = bytes(16)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    name: str
    what: str


def check_references(store: Store, shared: Store | None, names: Iterable[str]) -> Iterator[Problem]:
    """Problems of the shards of these names; all references lead nowhere without a `shared` output.

    Memory: 16 bytes for each row of the shared output.
    """
    try:
        keys = _read_shared(shared) if shared is not None else np.empty(0, KEY_DTYPE)
    except (OSError, pa.ArrowException, KeyError) as error:
        yield Problem(SHARED, f"its content keys cannot be read: {error}")
        return
    yield from filter(None, map_concurrently(partial(_check_shard, store, keys), names))


def _read_shared(shared: Store) -> NDArray[np.void]:
    names = pq.read_table(pa.BufferReader(shared.read(MANIFEST)), columns=["name"])["name"].to_pylist()
    columns = map_concurrently(lambda name: _read(shared, name, [KEY.name])[KEY.name], names)
    return np.concatenate([np.empty(0, KEY_DTYPE), *map(_to_keys, columns)])


def _to_keys(column: pa.ChunkedArray) -> NDArray[np.void]:
    return np.frombuffer(b"".join(key or NO_KEY for key in column.to_pylist()), KEY_DTYPE)


def _read(store: Store, name: str, columns: list[str]) -> pa.Table:
    with store.open(name) as file:
        return pq.read_table(file, columns=columns)


def _check_shard(store: Store, shared: NDArray[np.void], name: str) -> Problem | None:
    try:
        rows = _read(store, name, [KEY.name, SHARED_ROW.name])
    except (OSError, pa.ArrowException, KeyError) as error:
        return Problem(name, f"its references cannot be read: {error}")
    rows = rows.filter(rows[SHARED_ROW.name].is_valid())
    places = rows[SHARED_ROW.name].to_numpy()
    bad = (places < 0) | (places >= len(shared))
    if not bad.any():
        bad = shared[places] != _to_keys(rows[KEY.name])
    if not bad.any():
        return None
    return Problem(
        name, f"{np.count_nonzero(bad)} rows refer to another embedding in {SHARED}/ than theirs, or to none"
    )
