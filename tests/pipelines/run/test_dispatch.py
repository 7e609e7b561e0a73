"""Spans through Ray Data: each goes to an actor once, several small ones together, and comes back as one result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from pipelines.commit.records import Records
from pipelines.nodes.shares import Cluster
from pipelines.plan.plan import Files, Units
from tests.pipelines.small_jobs import make_job, make_unit_shard, plan_file

pytestmark = pytest.mark.usefixtures("local_ray")
JOB = make_job()
CLUSTER = Cluster(device="cpu", actors=(1, 1), warm=1, cpus_per_actor=1, gpus_per_actor=0, threads_per_actor=1)


def make_records(files: int) -> Records:
    planned = Files.of(plan_file(f"{place:03d}.parquet", 5) for place in range(files))
    return Records(Units(planned, rows_per_unit=2, fingerprint=JOB.fingerprint))


def dispatch(records: Records, monkeypatch: pytest.MonkeyPatch, *, units_per_span: int) -> Iterator[list[Any]]:
    """What comes back from an actor that only names the units it was sent."""
    from pipelines.actors.tasks import SpanResult, SpanTask
    from pipelines.actors.worker import SpanWorker
    from pipelines.run import dispatch as dispatch_module

    class Idler:
        def __init__(self, options: Any, work: Any) -> None:
            self.work = work

        def __call__(self, batch: pa.Table) -> pa.Table:
            return self.work(self, batch)

    class Clerk(SpanWorker):
        def run(self, actor: Any, tasks: Sequence[SpanTask]) -> Iterator[SpanResult]:
            for task in tasks:
                for unit in task.span.units(fingerprint=self.job.fingerprint):
                    if unit.first_row not in task.done:
                        yield SpanResult(kind="unit", unit=unit)

    monkeypatch.setattr(dispatch_module, "EncoderActor", Idler)
    options: Any = None
    return dispatch_module.map_tasks(
        records, CLUSTER, options, Clerk(JOB, "out", None, None), units_per_span=units_per_span
    )


def test_ray_data_waits_as_long_as_it_takes_and_starts_other_actors_for_those_that_fail() -> None:
    from ray.data import DataContext

    from pipelines.run.dispatch import FAILED_STARTS, make_context

    context = make_context(3)
    assert context.execution_no_progress_timeout_s == -1
    assert context.max_consecutive_actor_init_deaths == 3 * FAILED_STARTS
    assert DataContext.get_current().execution_no_progress_timeout_s > 0, "others in this process keep theirs"
    assert {"execution_no_progress_timeout_s", "max_consecutive_actor_init_deaths"} <= set(vars(DataContext()))


def test_every_unit_that_is_left_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    records = make_records(20)
    for name in list(records.units)[::2]:
        records[name] = make_unit_shard(JOB, records.units[name])[0]
    found = list(dispatch(records, monkeypatch, units_per_span=4))
    names = [result.unit.name for results in found for result in results]
    assert sorted(names) == [unit.name for unit in records.units.select(records.left)]
    assert all(len(results) <= 4 for results in found)
    assert len(found) < 20, "small files are sent together"


def test_records_of_what_comes_back_can_be_noted_while_more_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent was settled before: a record that comes meanwhile does not shift the cuts."""
    records = make_records(10)
    for results in dispatch(records, monkeypatch, units_per_span=2):
        for result in results:
            assert result.unit.name not in records
            records[result.unit.name] = make_unit_shard(JOB, result.unit)[0]
    assert not len(records.left)
