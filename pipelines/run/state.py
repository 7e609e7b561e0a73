"""One run of a job: its state, and how it begins."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import torch

from pipelines.actors.tasks import SpanResult
from pipelines.commit.ownership import find_frozen, refuse_old
from pipelines.commit.protocol import Commit, begin_commit
from pipelines.commit.strays import ONE_IN
from pipelines.dedup.repeats import Tally
from pipelines.job import EncodeJob, FrozenJob
from pipelines.plan.plan import Files
from pipelines.progress.ledger import Details, Progress
from pipelines.progress.report import EncodeReport, read_report, read_runs, read_storage_error
from pipelines.progress.storage_error import StorageError
from pipelines.reuse.earlier import Earlier, EarlierOutput, open_earlier
from pipelines.run.asked import note_asked
from pipelines.run.resolved_job import ResolvedJob, choose_units, resolve_job
from pipelines.run.source_names import note_names
from pipelines.stores.store import Store, open_store
from t5enc.errors import OutputError
from t5enc.storage.layout import SUCCESS

# So that no actor is left without work while another has minutes of it.
SPANS_PER_ACTOR = 4


@dataclass(slots=True)
class RunState:
    """State of one run of a job.

    `repeats` is what a pass over all captions found, `shared` the report of encoding those prompts first, into what
    rows are copied from, or refer to (`referred`), by the numbers that `numbering` gives them. `doing` is shown while
    another step than the job's own is at work.
    """

    job: EncodeJob
    resolved: ResolvedJob
    store: Store
    commit: Commit
    units_per_span: int = 1
    spans: int = 0
    earlier_outputs: Earlier = field(default_factory=Earlier)
    referred: EarlierOutput | None = None
    numbering: pa.Table | None = None
    suspects: dict[str, SpanResult] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    details: Details = field(default_factory=Details)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    earlier_error: StorageError = field(default_factory=StorageError)
    began: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)
    started_cpu: float = field(default_factory=time.process_time)
    ready: float | None = None
    rows_before: int = 0
    doing: str = ""
    repeats: Tally | None = None
    shared: EncodeReport | None = None

    @property
    def rows_left(self) -> int:
        """Input rows whose shards are not committed."""
        return self.commit.units.count_rows(~self.commit.records.is_there)


def begin_run(
    job: EncodeJob, device: torch.device, *, actors: int = 1, cpus: int = 0, within: FrozenJob | None = None
) -> RunState:
    """Freeze the job, or find it frozen, and work out what is left to do; `cpus` are those of a Ray cluster.

    A job `within` another is of its generation: what its output holds of an earlier one makes way.
    """
    store = open_store(job.output)
    refuse_old(store, job.output)
    there = None if job.overwrite else find_frozen(store)
    resolved = resolve_job(job, device, cpus=cpus, there=there)
    if there is not None and job.recheck and not job.replace:
        check_rows(store, resolved.files)
    is_begun = there is not None or within is not None
    earlier = open_earlier(list_reuse(job, there), resolved.frozen, is_begun=is_begun)
    commit = begin_commit(
        store,
        resolved.frozen if within is None else replace(resolved.frozen, generation=within.generation),
        resolved.files,
        overwrite=job.overwrite,
        retry_errors=job.retry_errors,
        replace=job.replace or job.recheck,
        recheck=job.recheck,
        unreadable=resolved.unreadable,
        is_within=within is not None,
    )
    note_names(store, resolved.files, anew=job.overwrite)
    note_asked(store, job)
    run = RunState(job, resolved, store, commit, unreadable=dict(resolved.unreadable), earlier_outputs=earlier)
    last = read_report(store, commit.frozen.fingerprint)
    run.earlier, run.earlier_error = read_runs(last), read_storage_error(last)
    run.rows_before = commit.units.count_rows(commit.records.is_there)
    most = max(actors, (job.actor_range() or (1, 1))[1], job.tokenizer_range()[1])
    run.units_per_span = choose_units_per_span(run, most)
    return run


def list_reuse(job: EncodeJob, there: FrozenJob | None) -> list[str]:
    """Outputs to take embeddings from; where inputs are looked at again, the job's own, whose shards are put aside."""
    own = [job.output] if job.recheck and there is not None and there.has_keys else []
    return list(dict.fromkeys([*job.reuse, *own]))


def check_rows(store: Store, files: Files) -> None:
    """OutputError where inputs lack more than a tenth of the rows of a finished output: a disk may not be there."""
    try:
        rows = json.loads(store.read(SUCCESS))["totals"]["input_rows"]
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return
    if files.total_rows * ONE_IN < rows * (ONE_IN - 1):
        raise OutputError(
            f"the inputs have {files.total_rows:,} rows by now, the output has those of {rows:,}. Say --replace if "
            f"that is meant; nothing was changed"
        )


def choose_units_per_span(run: RunState, actors: int) -> int:
    """Units of a span: about a minute of work, and several spans for each actor."""
    frozen = run.commit.frozen
    device = str(frozen.record.get("device", "cpu")).partition(":")[0]
    sample, units = run.resolved.sample, len(run.commit.units)
    captions = sample.captions_per_row * run.resolved.files.total_rows / max(1, units)
    by_time = choose_units(run.resolved.config, device, sample, captions)
    return max(1, min(by_time, -(-units // (SPANS_PER_ACTOR * actors))))


OnProgress = Callable[[Progress, RunState], None]
