"""Records of units are found in the log or in their shards, and damaged shards have none."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.commit.log import append_log
from pipelines.commit.manifest import read_records
from pipelines.commit.records import read_footer_record
from pipelines.plan.plan import Units
from t5enc.storage.layout import STALE, SUCCESS
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.commit.whole_output import (
    FILES,
    FIRST,
    JOB,
    LAST,
    UNITS,
    CountingStore,
    close,
    committed,
    names,
    shorten,
)
from tests.pipelines.small_jobs import make_unit_shard


def test_a_footer_tells_what_was_recorded_and_the_size(store: CountingStore) -> None:
    record, data = make_unit_shard(JOB, UNITS[FIRST])
    assert read_footer_record(store, FIRST) == record.with_size(len(data))


@pytest.mark.parametrize("keep", [0, 3, 11, 500, -1])
def test_a_shard_that_was_cut_short_has_no_record(store: CountingStore, keep: int) -> None:
    store.objects[FIRST] = store.objects[FIRST][:keep]
    assert read_footer_record(store, FIRST) is None


def test_a_shard_that_is_gone_has_no_record(store: CountingStore) -> None:
    assert read_footer_record(store, "nowhere") is None


def test_another_shard_under_a_units_name_has_no_record(store: CountingStore) -> None:
    store.objects[FIRST] = store.objects[LAST]
    assert read_footer_record(store, FIRST) is None


@pytest.mark.parametrize("metadata", [None, {b"t5enc.unit": b"{}"}, {b"t5enc.unit": b"torn"}])
def test_a_foreign_parquet_file_has_no_record(store: CountingStore, metadata: dict[bytes, bytes] | None) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), sink)
    store.objects[FIRST] = sink.getvalue().to_pybytes()
    assert read_footer_record(store, FIRST) is None


def test_a_shard_with_rows_missing_has_no_record(store: CountingStore) -> None:
    table = pq.read_table(pa.BufferReader(store.objects[FIRST]))
    sink = pa.BufferOutputStream()
    pq.write_table(table.slice(0, 1), sink)
    store.objects[FIRST] = sink.getvalue().to_pybytes()
    assert read_footer_record(store, FIRST) is None


def test_records_come_in_the_order_of_the_plan(store: CountingStore) -> None:
    append_log(store, [committed(store)[LAST]])
    assert list(read_records(store, UNITS)) == list(UNITS)
    assert read_records(store, UNITS) == committed(store)


def test_what_is_not_planned_has_no_record(store: CountingStore) -> None:
    units = Units(FILES[1:], rows_per_unit=2, fingerprint=JOB.fingerprint)
    assert list(read_records(store, units)) == [LAST]


def test_a_shard_that_the_log_knows_is_not_opened(store: CountingStore) -> None:
    append_log(store, list(committed(store).values())[:2])
    store.opened.clear()
    assert list(read_records(store, UNITS)) == list(UNITS)
    assert store.opened == [LAST]


def test_a_shard_of_another_size_than_logged_is_known_by_its_footer(store: CountingStore) -> None:
    first = committed(store)[FIRST]
    append_log(store, [replace(first, counts=replace(first.counts, size=1, tokens=99))])
    assert read_records(store, UNITS) == committed(store)


def test_a_damaged_shard_is_put_aside_and_the_output_unfinished_before(store: CountingStore) -> None:
    close(store)
    shorten(store, FIRST)
    order: list[str] = []
    store.delete = lambda name: order.append(f"delete {name}")  # type: ignore[method-assign]
    store.move = lambda name, _: order.append(f"move {name}")  # type: ignore[method-assign]
    assert FIRST not in read_records(store, UNITS)
    assert order == [f"delete {SUCCESS}", f"move {FIRST}"]


def test_a_captions_death_is_kept_until_it_is_to_be_tried_again() -> None:
    store = MemoryStore()
    store.create(FIRST, make_unit_shard(JOB, UNITS[FIRST], died=[1])[1])
    store.create(LAST, make_unit_shard(JOB, UNITS[LAST])[1])
    assert list(read_records(store, UNITS)) == [FIRST, LAST]
    assert list(read_records(store, UNITS, retry_errors=True)) == [LAST]
    assert names(store, STALE)
    assert store.size(FIRST) is None
