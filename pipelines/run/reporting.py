"""What a run reports, at its end and while it goes on."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from pipelines.progress.report import EncodeReport, describe_job, write_report
from pipelines.progress.storage_error import add_errors
from pipelines.run.shared_job import describe_dedup
from pipelines.run.state import RunState
from pipelines.stores.store import list_weaknesses
from t5enc.storage.filesystems import hide_credentials


def forget_read(run: RunState) -> None:
    """A file that could not be read once, and then was, is not unreadable."""
    wanting = {unit.source for unit in run.commit.left} | set(run.resolved.unreadable)
    run.unreadable = {source: reason for source, reason in run.unreadable.items() if source in wanting}


def note_report(run: RunState) -> None:
    """Write what a run has done so far, so that one that is lost leaves a report, too."""
    write_report(run.store, make_report(run, is_complete=False, is_running=True))


def make_report(run: RunState, is_complete: bool, is_running: bool = False) -> EncodeReport:
    """What a run says of itself and of its output."""
    return EncodeReport(
        output=hide_credentials(run.job.output),
        totals=run.commit.records.totals(),
        max_length=run.commit.frozen.identity["max_length"],
        recipe=run.commit.frozen.describe_recipe(),
        dedup=describe_dedup(run),
        weaknesses=list_weaknesses(run.store),
        missing=dict(run.earlier_outputs.missing),
        put_aside=run.commit.records.num_aside,
        unreadable=dict(run.unreadable),  # which the run's own thread adds to
        bare=run.commit.records.find_bare() if not is_running else [],
        progress=run.progress,
        details=run.details,
        job=describe_job(run.commit.frozen),
        began=datetime.fromtimestamp(run.began, UTC).isoformat(timespec="seconds"),
        earlier_runs=run.earlier,
        wall_seconds=time.perf_counter() - run.started,
        driver_cpu_seconds=time.process_time() - run.started_cpu,
        spans=run.spans,
        storage_error=add_errors(run.earlier_error, run.details.findings.storage),
        is_finished=is_complete,
        is_running=is_running,
    )
