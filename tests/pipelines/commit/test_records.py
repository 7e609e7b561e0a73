"""Records as columns: a mapping like any other, and rows of the manifest some thousands at a time."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from pipelines.commit import records as records_module
from pipelines.commit.records import SCHEMA, Records, UnitRecord
from pipelines.plan.plan import Files, Units
from tests.pipelines.small_jobs import make_job, make_unit_shard, plan_file

JOB = make_job()
UNITS = Units(Files.of([plan_file("a.parquet", 5), plan_file("b.parquet", 2)]), rows_per_unit=2, fingerprint="job")
FIRST, SECOND, *_ = UNITS


def make_record(name: str, **changes: object) -> UnitRecord:
    record, data = make_unit_shard(JOB, UNITS[name])
    record = record.with_size(len(data))
    content = changes.pop("content", record.content)
    return replace(record, content=content, counts=replace(record.counts, **changes))  # type: ignore[arg-type]


def fill() -> Records:
    records = Records(UNITS)
    records.update({name: make_record(name) for name in UNITS})
    return records


def test_a_record_comes_back_as_it_was_noted() -> None:
    assert dict(fill()) == {name: make_record(name) for name in UNITS}


def test_a_record_can_be_replaced_and_taken_back() -> None:
    records = fill()
    records[FIRST] = make_record(FIRST, tokens=99)
    assert records[FIRST].counts.tokens == 99
    del records[FIRST]
    assert (FIRST in records, len(records), next(iter(records))) == (False, 3, SECOND)
    assert records.left.tolist() == [0]
    with pytest.raises(KeyError):
        del records[FIRST]


def test_what_is_not_planned_has_no_place() -> None:
    with pytest.raises(KeyError):
        Records(UNITS)["c.parquet/000000000000-0.parquet"] = make_record(FIRST)


@pytest.mark.parametrize("changes", [{"content": "é"}, {"content": "x" * 65}, {"tokens": 2**63}, {"size": "much"}])
def test_what_cannot_be_a_record_is_not_noted(changes: dict[str, object]) -> None:
    records = Records(UNITS)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        records[FIRST] = make_record(FIRST, **changes)
    assert FIRST not in records


@pytest.mark.parametrize("changes", [{"tokens": "9"}, {"tokens": 9.0}, {"content": 3}, {"errors": True}, {"mood": "x"}])
def test_json_of_other_types_is_no_record(changes: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        UnitRecord.from_json(json.dumps(make_record(FIRST).to_row() | changes).encode())


def test_a_count_of_a_later_release_is_passed_over() -> None:
    """Else whoever goes back to this release would encode again what is there."""
    record = make_record(FIRST)
    assert UnitRecord.from_json(json.dumps({"moods": 3} | record.to_row()).encode()) == record


def test_rows_of_the_manifest_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "PIECE", 3)
    pieces = list(fill().to_batches())
    assert [len(piece) for piece in pieces] == [3, 1]
    assert pa.Table.from_batches(pieces, SCHEMA).to_pylist() == [make_record(name).to_row() for name in UNITS]
