"""The main job: captions in Parquet to embeddings in Parquet, on Ray Data, safe to kill at any moment."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch

from pipelines.cluster import Cluster, check_installed, connect, is_connected
from pipelines.commit import Commit, begin_commit, conclude_commit
from pipelines.job import EncodeJob
from pipelines.ledger import Ledger, Progress
from pipelines.manifest import UnitRecord, append_log, sum_records
from pipelines.null import mend_null
from pipelines.prepare import Preparation, choose_units, prepare
from pipelines.report import REPORT, EncodeReport
from pipelines.store import Store, open_store
from pipelines.suspects import encode_suspect
from pipelines.units import cut_spans
from pipelines.watch import Watch
from pipelines.worker import SpanResult, SpanTask, SpanWorker
from t5enc.actor import EncoderActor
from t5enc.errors import DriverError, OutputError, T5encError
from t5enc.options import EncoderOptions, resolve_device

LOG_SECONDS = 60.0
# So that no actor is left without work while another has minutes of it.
SPANS_PER_ACTOR = 4
OnProgress = Callable[[Progress, "Run"], None]


@dataclass(slots=True)
class Run:
    """State of one run of a job."""

    job: EncodeJob
    preparation: Preparation
    store: Store
    commit: Commit
    tasks: list[SpanTask] = field(default_factory=list)
    suspects: list[SpanResult] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.perf_counter)
    started_cpu: float = field(default_factory=time.process_time)
    ready: float | None = None
    rows_before: int = 0

    @property
    def rows_left(self) -> int:
        """Input rows whose shards are not committed."""
        return sum(unit.num_rows for unit in self.commit.left)


def encode_parquet(job: EncodeJob, on_progress: OnProgress | None = None) -> EncodeReport:
    """Encode every caption of the job's inputs into its output, or what is left of them.

    Returns when every row of every readable input is committed exactly once, in input order. Killed at any moment
    and called again, it goes on where it was. Raises ConfigError, CheckpointError, SourceError or OutputError for
    what cannot be done as asked, JobMismatchError where the output holds another job.
    """
    check_installed()
    with contextlib.ExitStack() as stack:
        # A cluster decides the device; without one this machine does, and Ray need not start if nothing is left.
        cluster = stack.enter_context(connect(job)) if job.ray_address or is_connected() else None
        started, cpu = time.perf_counter(), time.process_time()
        device = torch.device(cluster.device) if cluster else resolve_device(job.device)
        run = begin(job, device, actors=cluster.actors[1] if cluster else 1)
        run.started, run.started_cpu = started, cpu
        if run.tasks:
            encode_units(run, cluster or stack.enter_context(connect(job)), on_progress)
    return conclude(run)


def begin(job: EncodeJob, device: torch.device, *, actors: int = 1) -> Run:
    """Freeze the job, or find it frozen, and work out what is left to do."""
    preparation = prepare(job, device)
    store = open_store(job.output)
    commit = begin_commit(
        store,
        preparation.frozen,
        preparation.files,
        overwrite=job.overwrite,
        retry_errors=job.retry_errors,
        is_whole=not preparation.unreadable,
    )
    run = Run(job, preparation, store, commit, unreadable=dict(preparation.unreadable))
    run.rows_before = sum(record.input_rows for record in commit.records.values())
    run.tasks = list(_cut_tasks(run, max(actors, (job.actor_range() or (1, 1))[1])))
    return run


def _cut_tasks(run: Run, actors: int) -> Iterator[SpanTask]:
    """Spans that hold a unit which is not committed, several for each actor."""
    frozen = run.commit.frozen
    device = str(frozen.record.get("device", "cpu")).partition(":")[0]
    by_time = choose_units(run.preparation.config, device, run.preparation.sample, frozen.rows_per_shard)
    most = min(by_time, -(-len(run.commit.units) // (SPANS_PER_ACTOR * actors)))
    for planned in run.preparation.files:
        for span in cut_spans(planned, rows_per_unit=frozen.rows_per_shard, units_per_span=most):
            units = list(span.units(rows_per_unit=frozen.rows_per_shard, fingerprint=frozen.fingerprint))
            done = frozenset(unit.first_row for unit in units if unit.name in run.commit.records)
            if len(done) < len(units):
                yield SpanTask(span=span, done=done)


def encode_units(run: Run, cluster: Cluster, on_progress: OnProgress | None) -> None:
    """Run the tasks on a pool of actors, then the units that seemed to kill them one by one."""
    import ray

    ledger = ray.remote(Ledger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    output, filesystem = absolute_output(run.job.output), run.preparation.inputs.filesystem
    worker = SpanWorker(run.commit.frozen, output, filesystem, ledger, run.job.on_error)
    options = _actor_options(run, cluster)
    with explained(), Watch(run, ledger, on_progress, actors=cluster.actors[1]), _Log(run.store) as log:
        for result in _map_tasks(run, cluster, options, worker):
            _take(run, log, result)
        for suspect in run.suspects:
            assert suspect.span is not None
            assert suspect.unit is not None
            _take(run, log, encode_suspect(cluster, options, worker, suspect.span, suspect.unit))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Ray's errors as ours: the cause where it is one of ours, else the last line of what Ray says."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, T5encError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from error
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise T5encError(f"an actor failed: {said[-1]}") from error


def _actor_options(run: Run, cluster: Cluster) -> EncoderOptions:
    """The frozen recipe and dtype, threads for the CPUs that an actor is given, and paths that hold in any folder."""
    options = _frozen_options(run)
    return replace(
        options,
        model=absolute_if_local(options.model),
        revision=run.preparation.revision,  # what was hashed, wherever the branch moves meanwhile
        tokenizer=absolute_if_local(options.tokenizer) if options.tokenizer else None,
        compile_cache=os.path.abspath(options.compile_cache) if options.compile_cache else None,
        dtype=run.commit.frozen.identity["dtype"],
        device=cluster.device,
        num_threads=cluster.threads_per_actor,
    )


def _frozen_options(run: Run) -> EncoderOptions:
    """What was asked for, with the recipe as it was frozen: its file may have changed, or an actor not find it."""
    frozen = run.commit.frozen
    if frozen.recipe is None:
        return run.preparation.options
    return replace(
        run.preparation.options,
        recipe=frozen.recipe,
        recipe_options={},
        max_length=frozen.recipe.max_length,
    )


def absolute_if_local(name: str) -> str:
    """A path that exists here as an absolute one; anything else as it is."""
    return os.path.abspath(name) if os.path.exists(name) else name


def absolute_output(path: str) -> str:
    """A path without its scheme made absolute: actors work in folders of their own."""
    return path if "://" in path else os.path.abspath(path)


def _map_tasks(run: Run, cluster: Cluster, options: EncoderOptions, worker: SpanWorker) -> Iterator[SpanResult]:
    """Ray Data: one block a span, mapped by a pool of EncoderActors."""
    import ray.data

    items = [{"task": pickle.dumps(task)} for task in run.tasks]
    low, high = cluster.actors
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        EncoderActor,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(options, worker),
        compute=ray.data.ActorPoolStrategy(
            min_size=min(low, len(items)), max_size=min(high, len(items)), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=cluster.cpus_per_actor,
        num_gpus=cluster.gpus_per_actor or None,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from map(pickle.loads, batch["result"].to_pylist())


def _take(run: Run, log: _Log, result: SpanResult) -> None:
    """Note what became of a unit."""
    if result.kind == "unit" and result.record is not None:
        run.commit.records[result.record.name] = result.record
        log.add(result.record)
    elif result.kind == "suspect":
        run.suspects.append(result)
    elif result.kind == "unreadable" and result.span is not None:
        run.unreadable[result.span.file.source] = result.reason
    else:
        raise _Fatal(result.reason, result.exit_code)


class _Fatal(OutputError):
    """What an actor met that no other unit would survive either."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class _Log:
    """Notes committed units in the output once a minute."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.records: list[UnitRecord] = []
        self.written = time.monotonic()

    def __enter__(self) -> _Log:
        return self

    def add(self, record: UnitRecord) -> None:
        """Note a record, now or within a minute."""
        self.records.append(record)
        if time.monotonic() - self.written > LOG_SECONDS:
            self._write()

    def _write(self) -> None:
        append_log(self.store, self.records)
        self.records, self.written = [], time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write()


def conclude(run: Run) -> EncodeReport:
    """Write the manifest where all is committed, and the report."""
    is_complete = not run.unreadable and not run.commit.left
    if is_complete:
        mend_null(run.store, run.commit.frozen, _frozen_options(run))
        conclude_commit(run.store, run.commit)
    report = _make_report(run, is_complete)
    if run.tasks:
        run.store.replace(REPORT, report.to_json().encode())
    if not is_complete and not run.unreadable:
        raise DriverError(f"{run.rows_left} rows are not committed; run the same command again")
    return report


def _make_report(run: Run, is_complete: bool) -> EncodeReport:
    return EncodeReport(
        output=run.job.output,
        totals=sum_records(run.commit.records.values()),
        max_length=run.commit.frozen.identity["max_length"],
        recipe=run.commit.frozen.describe_recipe(),
        unreadable=run.unreadable,
        progress=run.progress,
        wall_seconds=time.perf_counter() - run.started,
        driver_cpu_seconds=time.process_time() - run.started_cpu,
        spans=len(run.tasks),
        is_finished=is_complete,
    )
