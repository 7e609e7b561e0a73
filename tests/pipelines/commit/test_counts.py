"""What is counted of a unit: sums but for what is a maximum, and no place that forgets one."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.commit.counts import METRICS, Cost, Counts, names_of
from pipelines.commit.records import SCHEMA, Records, UnitRecord
from pipelines.plan.plan import Files, Units
from pipelines.progress.findings import Findings
from pipelines.progress.ledger import Ledger
from pipelines.progress.places import Place
from pipelines.progress.report import EncodeReport
from tests.pipelines.small_jobs import make_job, make_unit_shard, plan_file

# Counted, and told to no metric: captions less errors, what useful_tokens says, and what a sum says nothing of.
WITHOUT_METRIC = {"encoded", "tokens", "longest"}
NAMES = names_of(Counts)
# Another number for each.
EVERY = Counts(**{name: 3 + place for place, name in enumerate(NAMES)})
PLANNED = Units(Files.of([plan_file("a.parquet", 4)]), rows_per_unit=2, fingerprint="job")


def make_record() -> UnitRecord:
    record, _ = make_unit_shard(make_job(), PLANNED.at(0))
    return replace(record, counts=EVERY)


@given(st.lists(st.lists(st.integers(0, 99), min_size=len(NAMES), max_size=len(NAMES)), min_size=1))
def test_counts_add_up_and_the_longest_is_the_longest_of_all(rows: list[list[int]]) -> None:
    total = sum((Counts(**dict(zip(NAMES, row, strict=True))) for row in rows), Counts())
    columns = dict(zip(NAMES, zip(*rows, strict=True), strict=True))
    assert {name: getattr(total, name) for name in NAMES} == {
        name: max(column) if name == "longest" else sum(column) for name, column in columns.items()
    }


def test_every_count_is_in_a_record_and_comes_back_from_it() -> None:
    record = make_record()
    assert json.loads(record.to_json()).items() >= {name: getattr(EVERY, name) for name in NAMES}.items()
    assert UnitRecord.from_json(record.to_json().encode()) == record


def test_a_record_of_a_release_that_did_not_count_something_says_that_there_is_none() -> None:
    row = make_record().to_row()
    del row["truncated"]
    assert UnitRecord.from_row(row).counts == replace(EVERY, truncated=0)


def test_every_count_is_a_column_of_the_manifest_and_a_total() -> None:
    records = Records(PLANNED)
    for name in PLANNED:
        records[name] = replace(make_record(), name=name)
    (batch,) = records.to_batches()
    assert batch.schema == SCHEMA
    assert records.totals() == {"shards": 2} | {name: getattr(EVERY + EVERY, name) for name in NAMES}
    for name in NAMES:
        assert np.array_equal(batch[name].to_numpy(), [getattr(EVERY, name)] * 2), name


def test_every_count_is_in_the_progress_and_the_report_of_a_run_and_of_a_node() -> None:
    ledger, cost = Ledger(), Cost(**{entry.name: 7 for entry in fields(Cost)})
    ledger.starting(Place("actor", "node"))
    ledger.end("unit", "actor", EVERY, cost, Findings())
    assert ledger.read().counts == EVERY
    report = EncodeReport(output="out", totals={}, progress=ledger.read(), details=ledger.read_details())
    content = json.loads(report.to_json())
    for told in (content["progress"], *content["details"]["places"]):
        assert told.items() >= {name: getattr(EVERY, name) for name in NAMES}.items()
        assert told.items() >= {name: 7 for name in names_of(Cost) if name != "units"}.items()


def test_every_count_has_a_metric_or_is_named_as_left_out() -> None:
    assert set(NAMES) - set(METRICS) == WITHOUT_METRIC
