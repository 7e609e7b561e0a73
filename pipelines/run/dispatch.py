"""Spans to pools of actors, and what became of them back, by Ray Data.

Spans are cut while they are dispatched, by one task beside the driver that Ray Data holds back: neither the driver
nor the object store ever holds more of the plan than its columns, and the first span waits for no other.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.block import BlockMetadata

from pipelines.actors.tasks import SpanResult, cut_tasks
from pipelines.actors.tokenizers import TokenizerActor
from pipelines.actors.worker import SpanWorker
from pipelines.commit.records import Records
from pipelines.dedup.key_actor import KeyActor
from pipelines.nodes.shares import Cluster
from pipelines.plan.plan import Units
from t5enc.actor import EncoderActor
from t5enc.options import EncoderOptions

# Actors in the place of those whose start failed, for each of the pool and in a row, before that ends the run.
FAILED_STARTS = 2
# As small as it can be: every piece of work is a block of its own, and so is what became of it.
BLOCK_BYTES = 1
# Prepared units that may wait in the object store for each encoder; no more of them are made meanwhile.
WAITING_BYTES = 64 << 20
# An encoder's calls: one for a whole span, with another sent ahead; or two at once, each for a unit, so that one is
# encoded while the other is written, with two sent ahead.
ONE_TASK = {"max_tasks_in_flight_per_actor": 2}
TWO_UNITS = {
    "max_concurrent_calls_per_actor": 2,
    "enable_true_multi_threading": True,
    "max_tasks_in_flight_per_actor": 4,
}


class TaskSource(ray.data.Datasource):  # type: ignore[misc]
    """Lists of SpanTasks, a row and a block each, cut by one task on the driver's node."""

    def __init__(self, units: Units, is_there: NDArray[np.bool_], units_per_span: int) -> None:
        super().__init__()
        self.plan = ray.put((units, is_there))
        self.units_per_span = units_per_span

    @property
    def supports_distributed_reads(self) -> bool:
        """No: a node that may vanish must not take with it what tells the work."""
        return False

    def estimate_inmemory_data_size(self) -> None:
        """Not known before it is cut."""

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ray.data.ReadTask]:
        """The only one."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(partial(_cut_blocks, self.plan, self.units_per_span), metadata)]


def _cut_blocks(plan: Any, units_per_span: int) -> Iterator[pa.Table]:
    units, is_there = ray.get(plan)
    for tasks in cut_tasks(units, is_there, units_per_span=units_per_span):
        yield pa.table({"tasks": pa.array([pickle.dumps(tasks)], pa.binary())})


def map_tasks(
    records: Records, cluster: Cluster, options: EncoderOptions, worker: SpanWorker, *, units_per_span: int
) -> Iterator[list[SpanResult]]:
    """What a pool of EncoderActors makes of the units without a record, as it comes: a list for each dispatch.

    Where the cluster has tokenizers, a pool of them prepares units, and each of those is a dispatch of its own.
    """
    source = TaskSource(records.units, records.is_there, units_per_span)
    count = _count_tasks(records, units_per_span, most=max(cluster.actors[1], cluster.tokenizers[1]))
    fewest, tokenizers = (min(wanted, count) for wanted in cluster.tokenizers)
    count = len(records.left) if tokenizers else count
    low, high, warm = (min(wanted, count) for wanted in (*cluster.actors, cluster.warm))
    with ray.data.DataContext.current(make_context(high, tokenizers)):
        dataset = ray.data.read_datasource(source, override_num_blocks=1, num_cpus=0)
        if tokenizers:
            pool = ray.data.ActorPoolStrategy(min_size=fewest, max_size=tokenizers, max_tasks_in_flight_per_actor=2)
            dataset = _map(dataset, TokenizerActor, options, worker, compute=pool, num_cpus=1)
        pool = ray.data.ActorPoolStrategy(
            min_size=low, max_size=high, initial_size=warm, **(TWO_UNITS if tokenizers else ONE_TASK)
        )
        dataset = _map(dataset, EncoderActor, options, worker, compute=pool, **cluster.actor_options())
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from map(pickle.loads, batch["results"].to_pylist())


def map_keys(
    units: Units, is_there: NDArray[np.bool_], options: EncoderOptions, worker: SpanWorker, *, units_per_span: int
) -> Iterator[list[SpanResult]]:
    """What a pool of KeyActors, a CPU each, makes of the units that are not there, as it comes."""
    cpus = int(ray.cluster_resources().get("CPU", 1))
    most = max(1, sum(1 for _ in islice(cut_tasks(units, is_there, units_per_span=units_per_span), cpus)))
    with ray.data.DataContext.current(make_context(most)):
        dataset = ray.data.read_datasource(
            TaskSource(units, is_there, units_per_span), override_num_blocks=1, num_cpus=0
        )
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=2)
        dataset = _map(dataset, KeyActor, options, worker, compute=pool, num_cpus=1)
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from map(pickle.loads, batch["results"].to_pylist())


def make_context(actors: int, tokenizers: int = 0) -> ray.data.DataContext:
    """This process's context, for long work on machines that fail; how long is too long, the run's watch says."""
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = BLOCK_BYTES
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = FAILED_STARTS * max(actors, tokenizers)
    if tokenizers:
        limits = context.execution_options.resource_limits
        context.execution_options.resource_limits = limits.copy(object_store_memory=WAITING_BYTES * actors)
    return context


def _map(dataset: Any, actor: type, options: EncoderOptions, worker: SpanWorker, **placing: Any) -> Any:
    """One more pool of actors, which take rows one by one."""
    return dataset.map_batches(
        actor, batch_size=1, batch_format="pyarrow", fn_constructor_args=(options, worker), **placing
    )


def _count_tasks(records: Records, units_per_span: int, *, most: int) -> int:
    """How many dispatches there are for a pool, counted up to `most`: more actors than that would have no work."""
    tasks = cut_tasks(records.units, records.is_there, units_per_span=units_per_span)
    return sum(1 for _ in islice(tasks, most))
