"""The main job: captions in Parquet to embeddings in Parquet, on Ray Data, safe to kill at any moment."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.actors.tasks import FatalError, SpanResult
from pipelines.actors.worker import SpanWorker
from pipelines.commit.card import write_card
from pipelines.commit.log import Log
from pipelines.commit.null import mend_null
from pipelines.commit.ownership import check_owner
from pipelines.commit.protocol import conclude_commit
from pipelines.job import EncodeJob
from pipelines.nodes.cluster import check_installed, connect, is_connected
from pipelines.nodes.ray_errors import explained
from pipelines.nodes.selectors import count_cpus
from pipelines.nodes.shares import Cluster
from pipelines.plan.units import Span, Unit
from pipelines.progress.ledger import start_ledger
from pipelines.progress.report import EncodeReport, write_report
from pipelines.progress.tracing import Tracing
from pipelines.reuse.copying import EarlierRows
from pipelines.reuse.earlier import find_output
from pipelines.run.key_pass import find_repeats, without_columns
from pipelines.run.reporting import forget_read, make_report, note_report
from pipelines.run.shared_job import (
    check_numbering,
    make_shared_job,
    may_lack_shared,
    put_old_aside,
    take_from,
    tidy_shared,
    unless_over,
)
from pipelines.run.state import OnProgress, RunState, begin_run
from pipelines.run.suspects import encode_suspect
from pipelines.run.watch import Watch
from t5enc.errors import DriverError, T5encError
from t5enc.options import EncoderOptions, ModelSource, resolve_device
from t5enc.storage.filesystems import absolute_if_local, absolute_path

# Passes over what is left, one after the other, that commit nothing before the run is given up.
IDLE_PASSES = 3


def encode_parquet(
    job: EncodeJob, on_progress: OnProgress | None = None, on_begin: Callable[[RunState], None] | None = None
) -> EncodeReport:
    """Encode every caption of the job's inputs into its output, or what is left of them.

    `on_begin` is called when it is known what there is to do, and something is, before any of it is done.

    Returns when every row of every readable input is committed exactly once, in input order. Killed at any moment
    and called again, it goes on where it was. Raises ConfigError, CheckpointError, SourceError or OutputError for
    what cannot be done as asked, JobMismatchError where the output holds another job.
    """
    check_installed(job)
    with explained(), contextlib.ExitStack() as stack:
        # A cluster decides the device; without one this machine does, and Ray need not start if nothing is left.
        cluster = stack.enter_context(connect(job)) if job.ray_address or is_connected() else None
        started, cpu = time.perf_counter(), time.process_time()
        device = torch.device(cluster.device) if cluster else resolve_device(job.encoder.device)
        actors = cluster.actors[1] if cluster else 1
        run = begin_run(job, device, actors=actors, cpus=count_cpus() if cluster else 0)
        run.started, run.started_cpu = started, cpu
        if run.commit.left:
            if on_begin is not None:
                on_begin(run)
            cluster = cluster or stack.enter_context(connect(job))
            if job.dedup == "job":
                with unless_over(run):
                    encode_shared(run, cluster, device, on_progress)
            encode_units(run, cluster, on_progress)
        elif may_lack_shared(run):
            inner = begin_shared(run, device, actors)
            if inner.commit.left:
                encode_units(inner, cluster or stack.enter_context(connect(job)), on_progress)
            end_shared(run, inner)
    return conclude(run)


def encode_shared(run: RunState, cluster: Cluster, device: torch.device, on_progress: OnProgress | None) -> None:
    """Encode the prompts that occur more than once, if there are any, into an output of their own within the run's."""
    run.repeats = find_repeats(run, partial(note_keys, run, cluster, on_progress))
    if not run.repeats.distinct:
        return
    inner = begin_shared(run, device, cluster.actors[1])
    if inner.commit.left:
        encode_units(inner, cluster, on_progress)
    end_shared(run, inner)


def begin_shared(run: RunState, device: torch.device, actors: int) -> RunState:
    """Begin the job within a job, of the prompts that were found to occur more than once."""
    frozen = run.commit.frozen
    inner = begin_run(make_shared_job(run.job, frozen), device, actors=actors, within=frozen)
    inner.doing = "encoding repeated captions"
    return inner


def end_shared(run: RunState, inner: RunState) -> None:
    """End it, and have the run's rows copied from its output, or refer to it."""
    run.shared = conclude(inner)
    if not run.shared.is_finished:
        raise DriverError(f"captions that occur more than once: {', '.join(run.shared.unreadable.values())}")
    take_from(run, find_output(inner.job.output))


def note_keys(
    run: RunState, cluster: Cluster, on_progress: OnProgress | None, is_there: NDArray[np.bool_]
) -> list[list[SpanResult]]:
    """Have the content keys of the units that are not there noted, by a pool of actors without a model."""
    from pipelines.run.dispatch import map_keys

    frozen, units = without_columns(run.commit.frozen), run.commit.units
    ledger = start_ledger(None, units.count_rows(~is_there))
    output, filesystem = absolute_path(run.job.output), run.resolved.inputs.filesystem
    worker = SpanWorker(frozen, output, filesystem, ledger, code=cluster.code)
    options = _actor_options(run, cluster)
    run.doing = "looking for repeated captions"
    with Watch(run, ledger, on_progress):
        found = list(map_keys(units, is_there, options, worker, units_per_span=run.units_per_span))
    run.doing = ""
    return found


def encode_units(run: RunState, cluster: Cluster, on_progress: OnProgress | None) -> None:
    """Run what is left on a pool of actors, then the units that seemed to kill them one by one."""
    from pipelines.run.dispatch import map_tasks

    ledger = start_ledger(run.commit.frozen.fingerprint, run.rows_left)
    output, filesystem = absolute_path(run.job.output), run.resolved.inputs.filesystem
    tracing = Tracing.from_environment(os.environ)
    earlier = EarlierRows(run.earlier_outputs.list(), run.commit.frozen.storage_dtype, run.referred)
    worker = SpanWorker(
        *(run.commit.frozen, output, filesystem, ledger, run.job.on_error, tracing, cluster.code),
        earlier=earlier if len(earlier) else None,
    )
    options = _actor_options(run, cluster)
    watch = Watch(run, ledger, on_progress, on_minute=note_report)
    with watch, Log(run.store) as log:
        for _ in passes(run):
            for results in map_tasks(run.commit.records, cluster, options, worker, units_per_span=run.units_per_span):
                run.spans += 1
                for result in results:
                    _take(run, log, result)
        encode_suspects(run, log, partial(encode_suspect, cluster, options, worker))


def encode_suspects(run: RunState, log: Log, encode: Callable[[Span, Unit], SpanResult]) -> None:
    """Encode one suspect after the other; the first one's error is raised when all had their turn."""
    errors: list[T5encError] = []
    for suspect in run.suspects.values():
        assert suspect.span is not None
        assert suspect.unit is not None
        try:
            result = encode(suspect.span, suspect.unit)
        except T5encError as error:
            errors.append(error)
        else:
            _take(run, log, result)
    if errors:
        raise errors[0]


def passes(run: RunState) -> Iterator[int]:
    """Count passes over what is left: nodes that are leaving give work back, and Ray may lose some.

    DriverError where one after the other commits nothing.
    """
    idle = 0
    for number in itertools.count(1):
        there = len(run.commit.records)
        yield number
        if not _is_undone(run):
            return
        idle = 0 if len(run.commit.records) > there else idle + 1
        if idle == IDLE_PASSES:
            raise DriverError(f"{run.rows_left} rows came back undone {idle} times; run the same command again")


def _is_undone(run: RunState) -> bool:
    """Whether a unit is left that is neither a suspect nor of an input that cannot be read."""
    return any(unit.id not in run.suspects and unit.source not in run.unreadable for unit in run.commit.left)


def _actor_options(run: RunState, cluster: Cluster) -> EncoderOptions:
    """The frozen recipe and dtype, threads for the CPUs that an actor is given, and paths that hold in any folder."""
    options = _frozen_options(run)
    return replace(
        options,
        source=_settle_source(options.source, run.resolved.revision),
        tokenizer=absolute_if_local(options.tokenizer) if isinstance(options.tokenizer, str) else options.tokenizer,
        compile_cache=absolute_path(options.compile_cache) if options.compile_cache else None,
        dtype=run.commit.frozen.identity["dtype"],
        device=cluster.device,
        num_threads=cluster.threads_per_actor,
        device_share=min(1.0, cluster.gpus_per_actor or 1.0),
    )


def _settle_source(source: ModelSource, revision: str | None) -> ModelSource:
    """A path that holds in any folder, and the revision that was hashed, wherever the branch moves meanwhile."""
    return replace(source, model=absolute_if_local(source.model), revision=revision)


def _frozen_options(run: RunState) -> EncoderOptions:
    """What was asked for, with the recipe as it was frozen: its file may have changed, or an actor not find it."""
    frozen = run.commit.frozen
    if frozen.recipe is None:
        return run.resolved.options
    return replace(
        run.resolved.options,
        recipe=frozen.recipe,
        recipe_options={},
        max_length=frozen.recipe.max_length,
    )


def _take(run: RunState, log: Log, result: SpanResult) -> None:
    """Note what became of a unit."""
    if result.kind == "unit" and result.record is not None:
        run.commit.records[result.record.name] = result.record
        log.add(result.record)
    elif result.kind == "suspect":
        assert result.unit is not None
        run.suspects[result.unit.id] = result
    elif result.kind == "unreadable" and result.span is not None:
        run.unreadable[result.span.file.source] = result.reason
    elif result.kind == "returned":
        pass  # it is still there for the next pass
    else:
        raise FatalError(result.reason, result.exit_code)


def conclude(run: RunState) -> EncodeReport:
    """Write the manifest where all is committed, and the report."""
    forget_read(run)
    is_complete = not run.unreadable and not run.commit.left
    if is_complete:
        check_owner(run.store, run.commit.frozen)  # before anything of another job's is replaced
        mend_null(run.store, run.commit.frozen, _frozen_options(run))
        write_card(run.store, run.commit.frozen, run.commit.records.totals())
        put_old_aside(run.store, run.commit.frozen)
        conclude_commit(run.store, run.commit, partial(check_numbering, run))
        tidy_shared(run.store, run.commit.frozen)
    report = make_report(run, is_complete)
    if run.spans:
        write_report(run.store, report)
    if not is_complete and not run.unreadable:
        raise DriverError(f"{run.rows_left} rows are not committed; run the same command again")
    return report
