"""`encode_parquet` in this process, for tests that only look at what comes out: Ray is hidden, all else is real.

What Ray would do is done here: a span after the other goes to one EncoderActor, pickled as it would be, and what
became of it comes back. The models of this package are loaded once a session.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from pipelines import EncodeJob, encode_parquet
from pipelines.actors.tasks import SpanResult, cut_tasks
from pipelines.actors.tokenizers import TokenizerActor
from pipelines.actors.worker import SpanWorker
from pipelines.commit.records import Records
from pipelines.dedup.key_actor import KeyActor
from pipelines.nodes.selectors import Node
from pipelines.nodes.shares import Cluster, share_out
from pipelines.plan.plan import Units
from pipelines.progress.ledger import Ledger
from pipelines.progress.report import EncodeReport
from t5enc import TextEncoder
from t5enc.actor import EncoderActor
from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.options import EncoderOptions
from tests.pipelines.one_process import Near

MACHINE = Node(id="here", address="127.0.0.1", resources={"CPU": 2.0})
load = TextEncoder.load
loaded: dict[str, TextEncoder] = {}


def stay_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have jobs run here until the patch is undone."""
    context = SimpleNamespace(get_actor_id=lambda: "this", get_node_id=lambda: MACHINE.id)
    ray = SimpleNamespace(
        __spec__=ModuleSpec("ray", None),
        exceptions=SimpleNamespace(RayError=type("RayError", (Exception,), {})),
        get=lambda value: value,
        get_runtime_context=lambda: context,
        is_initialized=lambda: False,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "pipelines.run.dispatch", SimpleNamespace(map_tasks=map_tasks, map_keys=map_keys))
    monkeypatch.setattr("pipelines.encode.connect", connect)
    monkeypatch.setattr("pipelines.encode.start_ledger", lambda _, rows: Near(Ledger(rows=rows)))
    monkeypatch.setattr("pipelines.run.watch.find_leaving", set)
    monkeypatch.setattr("t5enc.actor.TextEncoder.load", load_once)


def encode_in_process(job: EncodeJob) -> EncodeReport:
    """One job here, among others on real Ray."""
    with pytest.MonkeyPatch.context() as patch:
        stay_in_process(patch)
        return encode_parquet(job)


@contextmanager
def connect(job: EncodeJob) -> Iterator[Cluster]:
    """What the job's actors would get of a machine of two cores."""
    yield share_out(job, [MACHINE], is_local=True)


def map_tasks(
    records: Records, cluster: Cluster, options: EncoderOptions, worker: SpanWorker, *, units_per_span: int
) -> Iterator[list[SpanResult]]:
    """What one actor, behind a tokenizer where there are some, makes of the units without a record."""
    tokenizer = TokenizerActor(options, worker) if cluster.tokenizers[1] else None
    actor = EncoderActor(options, worker)
    for tasks in list(cut_tasks(records.units, records.is_there, units_per_span=units_per_span)):
        sent = pa.table({"tasks": pa.array([pickle.dumps(tasks)], pa.binary())})
        for batch in [sent] if tokenizer is None else tokenizer(sent):
            yield from map(pickle.loads, actor(batch)["results"].to_pylist())


def map_keys(
    units: Units, is_there: NDArray[np.bool_], options: EncoderOptions, worker: SpanWorker, *, units_per_span: int
) -> Iterator[list[SpanResult]]:
    """What one actor makes of the units whose keys are not there."""
    actor = KeyActor(options, worker)
    for tasks in list(cut_tasks(units, is_there, units_per_span=units_per_span)):
        for batch in actor(pa.table({"tasks": pa.array([pickle.dumps(tasks)], pa.binary())})):
            yield from map(pickle.loads, batch["results"].to_pylist())


def load_once(options: EncoderOptions, checkpoint: Checkpoint | None = None) -> TextEncoder:
    """A model of this package as it was loaded, and warmed up, for these options before."""
    if options.num_threads:
        torch.set_num_threads(options.num_threads)  # of the thread that asks, which is another one every time
    key = repr(options)
    if key not in loaded:
        encoder = load(options, checkpoint)
        if not options.source.model.startswith("builtin:"):
            return encoder  # a folder may hold another model the next time
        encoder.warm_up()
        encoder.warm_up = lambda **_: None  # type: ignore[method-assign]
        loaded[key] = encoder
    return loaded[key]
