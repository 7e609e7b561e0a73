"""The end of a job: plan, manifest and `_SUCCESS` say what is there, or the job does not end."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.commit.log import put_aside
from pipelines.commit.manifest import ABANDONED_SECONDS, finish
from pipelines.commit.planned import read_plan, write_plan
from pipelines.commit.records import Records
from pipelines.plan.plan import Files, Units
from pipelines.stores.store import LocalStore
from t5enc.errors import DriverError
from t5enc.storage.layout import MANIFEST, PLAN, STALE, SUCCESS, TEMPORARY
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
    note,
    shorten,
)
from tests.pipelines.small_jobs import make_job, make_unit_shard


def test_a_finished_output_has_plan_manifest_and_success(store: CountingStore) -> None:
    close(store)
    table = pq.read_table(pa.BufferReader(store.read(MANIFEST)))
    assert table["name"].to_pylist() == list(UNITS)
    assert table.schema.metadata[b"fingerprint"].decode() == JOB.fingerprint
    success = json.loads(store.read(SUCCESS))
    assert success["manifest_sha256"] == hashlib.sha256(store.read(MANIFEST)).hexdigest()
    assert success["fingerprint"] == JOB.fingerprint
    assert success["totals"] == note(committed(store)).totals()


def test_a_finished_output_is_finished_again_without_being_touched(store: CountingStore) -> None:
    close(store)
    before = dict(store.objects)
    deleted: list[str] = []
    store.delete = deleted.append  # type: ignore[method-assign]
    close(store)
    assert store.objects == before
    assert deleted == []


@pytest.mark.parametrize("name", [PLAN, MANIFEST, SUCCESS])
def test_finishing_again_mends_what_was_damaged(store: CountingStore, name: str) -> None:
    close(store)
    before = dict(store.objects)
    shorten(store, name)
    close(store)
    assert store.objects == before


def test_shards_outside_the_plan_are_put_aside_at_the_end(store: CountingStore) -> None:
    stray = make_unit_shard(JOB, replace(UNITS[FIRST], id="0" * 16))
    store.create(stray[0].name, stray[1])
    close(store)
    assert [store.objects[name] for name in names(store, STALE)] == [stray[1]]
    late = replace(UNITS[LAST], id="1" * 16)
    store.create(late.name, b"late")
    close(store)
    assert len(names(store, STALE)) == 2


def test_an_empty_plan_is_finished_too() -> None:
    store = MemoryStore()
    finish(store, Records(Units(Files.of([]), rows_per_unit=2, fingerprint="job")))
    assert pq.read_table(pa.BufferReader(store.read(MANIFEST))).num_rows == 0
    assert json.loads(store.read(SUCCESS))["totals"]["captions"] == 0


def test_a_job_does_not_end_without_every_record(store: CountingStore) -> None:
    records = committed(store)
    del records[FIRST]
    with pytest.raises(DriverError, match=f"1 shards are not in the output .* the first is {FIRST}"):
        close(store, records)
    assert names(store, SUCCESS) == []


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_job_does_not_end_where_a_shard_is_not_as_recorded(store: CountingStore, is_gone: bool) -> None:
    records = committed(store)
    store.delete(FIRST) if is_gone else shorten(store, FIRST)
    before = dict(store.objects)
    with pytest.raises(DriverError, match="run the same command again"):
        close(store, records)
    assert store.objects == before


def test_a_shard_that_another_run_replaced_meanwhile_is_recorded_as_it_is_now(store: CountingStore) -> None:
    records = committed(store)
    put_aside(store, [FIRST])
    record, data = make_unit_shard(JOB, UNITS[FIRST], rounding=1)
    store.create(FIRST, data)
    close(store, records)
    rows = pq.read_table(pa.BufferReader(store.read(MANIFEST))).to_pylist()
    assert rows[0]["content"] == record.content


def test_a_plan_can_be_cut_again(store: CountingStore) -> None:
    write_plan(store, FILES)
    again = Units(read_plan(store), rows_per_unit=2, fingerprint=JOB.fingerprint)
    assert list(again.items()) == list(UNITS.items())


def test_totals_are_sums_and_the_longest_of_all(store: CountingStore) -> None:
    records = Records(UNITS)
    assert records.totals()["longest"] == records.totals()["shards"] == 0
    records.update(committed(store))
    first = records[FIRST]
    records[FIRST] = replace(first, counts=replace(first.counts, longest=7, errors=2))
    totals = records.totals()
    assert totals["shards"] == 3
    assert totals["input_rows"] == totals["captions"] == 5
    assert totals["longest"] == 7
    assert totals["errors"] == 2
    assert totals["size"] == sum(len(store.objects[name]) for name in UNITS)


@pytest.fixture
def on_disk(tmp_path: Path, store: CountingStore) -> LocalStore:
    """The same output in a folder, where writers have left, or have in hand, what has no name yet."""
    local = LocalStore(tmp_path)
    for name, data in store.objects.items():
        local.create(name, data)
    return local


def write_aside(store: LocalStore, name: str, end: str) -> str:
    path = store.root / TEMPORARY / f"{PurePosixPath(name).name}.{end}"
    path.write_bytes(b"half a shard")
    return path.name


def test_the_end_of_a_job_sweeps_away_what_is_left_of_its_own_shards(on_disk: LocalStore, store: CountingStore) -> None:
    """A shard of another generation has another id: whoever writes it is at work, and would not find its name taken."""
    (anew, *_) = Units(FILES, rows_per_unit=2, fingerprint=make_job(generation=2).fingerprint)
    write_aside(on_disk, FIRST, "1234")
    kept = {write_aside(on_disk, anew, "5678"), write_aside(on_disk, MANIFEST, "9abc")}
    finish(on_disk, note(committed(store)))
    assert set(on_disk.list_unnamed()) == kept


def test_the_end_of_a_job_sweeps_away_what_nobody_can_be_writing_any_more(
    on_disk: LocalStore, store: CountingStore
) -> None:
    """A killed run of a generation that was overwritten leaves shards whose names nobody plans again."""
    (anew, *_) = Units(FILES, rows_per_unit=2, fingerprint=make_job(generation=2).fingerprint)
    kept = write_aside(on_disk, anew, "1234")
    os.utime(on_disk.root / TEMPORARY / kept, times=(0, time.time() - ABANDONED_SECONDS + 3600))
    for name in (anew, MANIFEST):
        os.utime(on_disk.root / TEMPORARY / write_aside(on_disk, name, "5678"), times=(0, 0))
    finish(on_disk, note(committed(store)))
    assert set(on_disk.list_unnamed()) == {kept}


def test_what_is_written_aside_while_a_job_ends_is_not_swept_away(on_disk: LocalStore, store: CountingStore) -> None:
    """Another run may have put this shard aside since it was last looked for, to encode it again."""
    kept: set[str] = set()
    finish(on_disk, note(committed(store)), check=lambda: kept.add(write_aside(on_disk, FIRST, f"{len(kept)}")))
    assert set(on_disk.list_unnamed()) == kept
