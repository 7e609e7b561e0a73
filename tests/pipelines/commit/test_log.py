"""What the log may say of shards, and shards that are put aside, of which it is not believed any more."""

from __future__ import annotations

from threading import Barrier

import pytest

from pipelines.commit.log import append_log, put_aside, read_struck_out, strike_out
from pipelines.commit.manifest import read_records
from t5enc.errors import OutputError
from t5enc.storage.layout import LOG, STALE
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.commit.whole_output import (
    FIRST,
    JOB,
    LAST,
    UNITS,
    CountingStore,
    committed,
    logged,
    names,
    shorten,
)
from tests.pipelines.small_jobs import make_unit_shard


def test_nothing_put_aside_is_lost(store: CountingStore) -> None:
    data = store.objects[FIRST]
    put_aside(store, [FIRST])
    store.objects[FIRST] = b"again"
    put_aside(store, [FIRST])
    assert sorted(store.objects[name] for name in names(store, STALE)) == sorted([data, b"again"])
    assert store.size(FIRST) is None


def test_the_log_is_not_believed_of_a_shard_that_was_put_aside(store: CountingStore) -> None:
    """Its successor may have the same size and other last bits."""
    before = committed(store)[FIRST]
    append_log(store, [before])
    put_aside(store, [FIRST])
    record, data = make_unit_shard(JOB, UNITS[FIRST], rounding=1)
    store.create(FIRST, data)
    assert len(data) == before.counts.size
    assert record.content != before.content
    assert read_records(store, UNITS)[FIRST].content == record.content


def test_the_log_forgets_a_shard_before_it_is_moved(store: CountingStore) -> None:
    """A run killed in between would leave its name free for a late writer, and the log true of another shard."""
    append_log(store, list(committed(store).values()))
    forgotten: list[bool] = []
    store.move = lambda name, _: forgotten.append(name not in logged(store))  # type: ignore[method-assign]
    put_aside(store, [FIRST, LAST])
    assert forgotten == [True, True]


def test_the_log_is_not_believed_of_a_shard_that_was_removed_by_hand(store: CountingStore) -> None:
    append_log(store, list(committed(store).values()))
    store.delete(FIRST)
    assert FIRST not in read_records(store, UNITS)
    record, data = make_unit_shard(JOB, UNITS[FIRST], rounding=1)
    store.create(FIRST, data)
    assert read_records(store, UNITS)[FIRST].content == record.content


def test_the_log_holds_what_all_runs_noted(store: CountingStore) -> None:
    records = list(committed(store).values())
    append_log(store, records[:1])
    append_log(store, records[1:])
    append_log(store, [])
    assert logged(store) == committed(store)
    assert len(names(store, LOG)) == 2


def test_a_torn_line_of_the_log_is_passed_over(store: CountingStore) -> None:
    append_log(store, list(committed(store).values()))
    (log,) = names(store, LOG)
    shorten(store, log)
    assert list(logged(store)) == list(UNITS)[:-1]
    assert read_records(store, UNITS) == committed(store)


@pytest.mark.parametrize("line", [b"", b"null", b"[]", b"3", b'{"name": "a"}', b"\xff", b'{"mood": 1}'])
def test_a_line_that_is_no_record_is_passed_over(line: bytes) -> None:
    store = MemoryStore()
    store.create(f"{LOG}/1.jsonl", line)
    assert logged(store) == {}


def test_where_names_struck_out_cannot_be_read_the_log_is_not_believed_at_all(store: CountingStore) -> None:
    append_log(store, list(committed(store).values()))
    strike_out(store, [FIRST])
    assert read_struck_out(store) == {FIRST}
    assert list(logged(store)) == list(UNITS)[1:]
    shorten(store, next(name for name in names(store, LOG) if "struck" in name))
    assert read_struck_out(store) is None
    assert logged(store) == {}


def test_shards_are_put_aside_many_at_once(store: CountingStore) -> None:
    """On an object store a move is a copy, and an output has many shards."""
    meeting, move = Barrier(2), store.move

    def meet(name: str, target: str) -> None:
        meeting.wait(60)
        move(name, target)

    store.move = meet  # type: ignore[method-assign]
    put_aside(store, [FIRST, LAST])
    assert len(names(store, STALE)) == 2


def test_a_shard_that_cannot_be_put_aside_is_told(store: CountingStore) -> None:
    def refuse(*_: str) -> None:
        raise OutputError("no leave")

    store.move = refuse  # type: ignore[method-assign]
    with pytest.raises(OutputError, match="no leave"):
        put_aside(store, [FIRST, LAST])
