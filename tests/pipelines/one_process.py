"""A file of captions, its job, and who works on it: all in this process, whose Ray only looks like one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipelines.actors.tasks import SpanResult, SpanTask
from pipelines.actors.worker import SpanWorker
from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import open_inputs
from pipelines.job import FrozenJob
from pipelines.plan.units import PlannedFile, Unit
from pipelines.progress.ledger import Ledger
from pipelines.stores.store import LocalStore
from t5enc.storage import read_column
from tests.pipelines.actors.fake_encoder import DIM, FakeActor, FakeEncoder, decode
from tests.pipelines.small_jobs import make_job

TEXTS = [f"caption {row}" for row in range(8)]


class Near:
    """A Ray actor that is an object in this process."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.actor, name))


@dataclass
class Setting:
    """A file of captions, its job of three rows a shard, and who works on it."""

    planned: PlannedFile
    job: FrozenJob
    ledger: Ledger
    store: LocalStore

    @property
    def task(self) -> SpanTask:
        return SpanTask(span=self.planned.span(0, self.planned.num_rows, 3))

    @property
    def units(self) -> list[Unit]:
        return list(self.task.span.units(fingerprint=self.job.fingerprint))

    def worker(self, on_error: str = "keep") -> SpanWorker:
        return SpanWorker(self.job, str(self.store.root), pafs.LocalFileSystem(), Near(self.ledger), on_error)

    def run(self, encoder: FakeEncoder, task: SpanTask | None = None, **options: str) -> list[SpanResult]:
        actor: Any = FakeActor(encoder)
        return list(self.worker(**options).run(actor, [task or self.task]))

    def stored(self) -> dict[int, list[str]]:
        """What the embeddings of each shard are of, by its first row."""
        found = {}
        for unit in self.units:
            if self.store.size(unit.name) is not None:
                table = pq.read_table(pa.BufferReader(self.store.read(unit.name)))
                embeddings = read_column(table["text_embedding_bytes"], "float16", DIM)
                found[unit.first_row] = [decode(rows[:, 0].tolist()) if len(rows) else "" for rows in embeddings]
        return found


def lay_out(folder: Path, texts: Sequence[str | None] = TEXTS) -> Setting:
    path = folder / "in" / "a.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"caption": pa.array(texts, pa.string())}), path)
    (file,) = open_inputs([str(path)]).files()
    footer = read_footer(pafs.LocalFileSystem(), file)
    planned = PlannedFile(
        file=file, num_rows=footer.num_rows, largest_group=max(footer.row_group_rows), digest=footer.digest
    )
    return Setting(planned, replace(make_job(rows_per_shard=3), dim=DIM), Ledger(), LocalStore(folder / "out"))


def hide_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fetched is here already, and the only actor is this process."""
    context = SimpleNamespace(get_actor_id=lambda: "this", get_node_id=lambda: "here")
    ray = SimpleNamespace(get=lambda value: value, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)


def rows_of(results: Sequence[SpanResult], kind: str) -> list[int]:
    """First rows of the units of these results."""
    named = [result.record or result.unit for result in results if result.kind == kind]
    return [one.first_row for one in named if one is not None]
