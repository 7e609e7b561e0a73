"""A finished output of sources whose names are as awkward as names can be, and its rows in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.commit.card import write_card
from pipelines.commit.protocol import begin_commit, commit_shard, conclude_commit
from pipelines.plan.plan import Files
from pipelines.stores.store import LocalStore
from t5enc import load_embeddings
from tests.pipelines.small_jobs import make_job, make_unit_shard, plan_file

SOURCES = (
    *("a.parquet", "a-b.parquet", "a b.parquet", "a.b.parquet", "a/c.parquet", "a", "a.pq", "A.parquet"),
    *("year=2024/x.parquet", "year=0012/x.parquet", "year-2024/x.parquet", "x.parquet/y.parquet", "manifest.parquet"),
    *("été/猫.parquet", "train.parquet", "test/eval-dev.parquet", "_x/.y.parquet", "#?*[z].parquet", "%41.parquet"),
)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows of each source in two shards; one row has no embedding."""
    folder = tmp_path_factory.mktemp("readers") / "out"
    store = LocalStore(folder)
    job = replace(make_job(), record={"device": "cpu", "model": "made/up"})
    commit = begin_commit(store, job, Files.of(plan_file(source, 3) for source in SOURCES).in_order())
    for unit in commit.left:
        died = {0} if unit.source == "a.parquet" else ()
        commit.records[unit.name] = commit_shard(store, *make_unit_shard(commit.frozen, unit, died=died))
    write_card(store, commit.frozen, commit.records.totals())
    conclude_commit(store, commit)
    for name in ("report.json", "report.html"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture(scope="module")
def captions(output: Path) -> list[str]:
    """What t5enc itself reads."""
    table, _ = load_embeddings(output)
    assert set(table["text_embedding_source"].to_pylist()) == set(SOURCES)
    rows: list[str] = table["caption"].to_pylist()
    assert len(rows) == 3 * len(SOURCES)
    return rows
