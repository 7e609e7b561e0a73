"""Records of units: where they are found, what the log may say of them, and the end of a job."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.commit.log import append_log, put_aside, read_log, read_struck_out, strike_out
from pipelines.commit.manifest import finish, read_plan, read_records, write_plan
from pipelines.commit.records import Records, UnitRecord, read_footer_record
from pipelines.job import FrozenJob
from pipelines.plan.plan import Files, Units
from pipelines.stores.store import LocalStore
from t5enc.errors import DriverError, OutputError
from t5enc.output import LOG, MANIFEST, PLAN, STALE, SUCCESS, TEMPORARY
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.small_jobs import make_job, make_unit_shard, plan_file

JOB = make_job()
FILES = Files.of([plan_file("a.parquet", 4), plan_file("b.parquet", 1)])
UNITS = Units(FILES, rows_per_unit=2, fingerprint=JOB.fingerprint)
FIRST, *_, LAST = UNITS


class CountingStore(MemoryStore):
    """Notes which objects are opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def open(self, name: str) -> object:
        self.opened.append(name)
        return super().open(name)


@pytest.fixture
def store() -> CountingStore:
    """The output of a run that committed everything, and noted nothing."""
    store = CountingStore()
    for unit in UNITS.values():
        store.create(unit.name, make_unit_shard(JOB, unit)[1])
    return store


def committed(store: MemoryStore) -> dict[str, UnitRecord]:
    return {name: found for name in UNITS if (found := read_footer_record(store, name))}


def logged(store: MemoryStore) -> dict[str, UnitRecord]:
    return {record.name: record for record in read_log(store)}


def names(store: MemoryStore, prefix: str = "") -> list[str]:
    return [name for name, _ in store.list() if name.startswith(prefix)]


def close(store: MemoryStore, records: dict[str, UnitRecord] | None = None, job: FrozenJob = JOB) -> None:
    finish(store, note(committed(store) if records is None else records, job))


def note(records: dict[str, UnitRecord], job: FrozenJob = JOB) -> Records:
    noted = Records(Units(FILES, rows_per_unit=2, fingerprint=job.fingerprint))
    noted.update(records)
    return noted


def shorten(store: MemoryStore, name: str) -> None:
    store.objects[name] = store.objects[name][:-9]


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


def test_what_is_written_aside_while_a_job_ends_is_not_swept_away(on_disk: LocalStore, store: CountingStore) -> None:
    """Another run may have put this shard aside since it was last looked for, to encode it again."""
    kept: set[str] = set()
    finish(on_disk, note(committed(store)), check=lambda: kept.add(write_aside(on_disk, FIRST, f"{len(kept)}")))
    assert set(on_disk.list_unnamed()) == kept


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
