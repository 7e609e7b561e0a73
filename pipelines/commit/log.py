"""What runs noted of their units once a minute, and which of these notes are out of date.

The log saves reading the footer of every shard again; whatever it does not say, a footer does.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence, Set

from pipelines.commit.records import UnitRecord
from pipelines.stores.concurrent_map import THREADS, map_concurrently
from pipelines.stores.store import Store
from t5enc.storage.layout import LOG, STALE

# Two kinds of objects in the log: records, a line each, and names of which it must not be believed.
NOTED = ".jsonl"
STRUCK_OUT = ".struck_out.json"
LOG_SECONDS = 60.0
# Moves at once: on an object store each is a copy, which the store makes itself.
MOVES = THREADS


def read_log(store: Store) -> Iterator[UnitRecord]:
    """Records that earlier runs noted in no order, but for the names struck out: two of one name say the same.

    A torn line is passed over. It decides nothing: whatever it does not say, a shard's footer does.
    """
    struck_out = read_struck_out(store)
    if struck_out is None:
        return
    for name in _list_log(store, NOTED):
        for line in store.read(name).splitlines():
            record = _parse(line)
            if record is not None and record.name not in struck_out:
                yield record


def read_struck_out(store: Store) -> set[str] | None:
    """Names that were struck out of the log, None where a damaged list may have held any."""
    try:
        return {name for entry in list_struck_out(store) for name in json.loads(store.read(entry))}
    except ValueError:
        return None


def list_struck_out(store: Store) -> set[str]:
    """The objects of the log that strike names out: a new one precedes whatever is done to a shard that is there."""
    return set(_list_log(store, STRUCK_OUT))


def read_struck_out_since(store: Store, known: Set[str]) -> set[str]:
    """Names in those objects that are not among the known ones; a damaged one tells nothing."""
    names: set[str] = set()
    for entry in list_struck_out(store) - known:
        with contextlib.suppress(ValueError):
            names.update(json.loads(store.read(entry)))
    return names


def _list_log(store: Store, kind: str) -> list[str]:
    return [name for name, _ in store.list(LOG) if name.endswith(kind)]


def _parse(line: bytes) -> UnitRecord | None:
    try:
        return UnitRecord.from_json(line)
    except (ValueError, TypeError):
        return None


def append_log(store: Store, records: Sequence[UnitRecord]) -> None:
    """Note records as one new object of the log."""
    if records:
        lines = b"\n".join(record.to_json().encode() for record in records)
        store.create(f"{LOG}/{uuid.uuid4().hex}{NOTED}", lines)


def strike_out(store: Store, names: Sequence[str]) -> set[str]:
    """Never again trust what the log says of these shards; the object that says so, if there is any.

    A shard written anew has the size of the one before it, and can still differ from it in its last bits.
    """
    if not names:
        return set()
    entry = f"{LOG}/{uuid.uuid4().hex}{STRUCK_OUT}"
    store.create(entry, json.dumps(names).encode())
    return {entry}


def put_aside(store: Store, names: Sequence[str]) -> set[str]:
    """Move shards that are damaged or no longer planned out of the way, and say so in the log, as `strike_out` does."""
    entries = strike_out(store, names)
    move_aside(store, names)
    return entries


def move_aside(store: Store, names: Sequence[str]) -> None:
    """Move shards that are struck out of the way, without losing them."""
    move_all(store, [(name, f"{STALE}/{name}.{uuid.uuid4().hex[:8]}") for name in names])


def move_all(store: Store, moves: Iterable[tuple[str, str]]) -> None:
    """Rename objects, several at once."""
    for _ in map_concurrently(lambda move: store.move(*move), moves, threads=MOVES):
        pass  # what a move raises is raised here


class Log:
    """Notes committed units in the output once a minute, and when a run ends well."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.records: list[UnitRecord] = []
        self.written = time.monotonic()

    def __enter__(self) -> Log:
        return self

    def add(self, record: UnitRecord) -> None:
        """Note a record, now or within a minute."""
        self.records.append(record)
        if time.monotonic() - self.written > LOG_SECONDS:
            self._write()

    def _write(self) -> None:
        append_log(self.store, self.records)
        self.records, self.written = [], time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write()
