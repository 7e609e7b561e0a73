"""Jobs as releases wrote them: each goes on under this code, with the names of the shards it has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.commit.ownership import freeze
from pipelines.commit.protocol import begin_commit
from pipelines.job import EncodeJob, FrozenJob
from pipelines.plan.density import ROWS, Density
from pipelines.plan.plan import Files, Units
from pipelines.run.resolved_job import ResolvedJob, resolve_job
from t5enc.errors import JobMismatchError
from t5enc.recipes.families import RECIPES
from t5enc.storage.layout import JOB
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.small_jobs import plan_file

# `whole_recipe.json` holds words for people in its identity, as all jobs before 0.1.0 did. A file here is never
# changed: what it stands for lies half done on somebody's disk.
WRITTEN = sorted((Path(__file__).parent / "frozen_jobs").glob("*.json"))


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResolvedJob:
    """The job of all files, as this code makes it."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    pq.write_table(pa.table({"id": [0, 1, 2], "caption": ["a red fox", "two", "snow"]}), "in/a.parquet")
    asked = EncodeJob(inputs=["in"], output="out", model="builtin:tiny", recipe="flux", rows_per_shard=2)
    return resolve_job(asked, torch.device("cpu"))


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.stem)
def test_a_job_of_an_earlier_release_goes_on(file: Path, found: ResolvedJob) -> None:
    store = MemoryStore()
    there = FrozenJob.from_old_json(file.read_bytes()).to_json()
    store.replace(JOB, there)
    commit = begin_commit(store, found.frozen, found.files)
    assert store.read(JOB) == there
    assert commit.frozen.fingerprint == commit.units.fingerprint == json.loads(file.read_bytes())["fingerprint"]
    assert commit.frozen.recipe is not None
    assert commit.frozen.recipe.source == "FluxPipeline"
    assert commit.frozen.recipe.to_identity() == RECIPES["flux"].to_identity()


def test_a_job_is_written_as_that_of_the_last_release(found: ResolvedJob) -> None:
    """Where this fails for good reason, a new file is added, made by `frozen.to_json()`; none is replaced."""
    names = {"identity", "rows_per_shard", "dim", "generation", "record"}
    written = json.loads(found.frozen.to_json())
    assert any(all(written[n] == json.loads(file.read_bytes())[n] for n in names) for file in WRITTEN)


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.stem)
def test_a_job_of_an_earlier_release_cuts_by_rows_whatever_they_hold(file: Path) -> None:
    densities = (Density(rows=3, captions=1000 * ROWS, bytes=1 << 30), Density(rows=4))
    frozen = FrozenJob.from_old_json(file.read_bytes())
    units = Units.of(Files.of([plan_file(rows=7, densities=densities)]), frozen)
    assert frozen.rows_per_shard == 2
    assert [unit.num_rows for unit in units.values()] == [2, 2, 2, 1]


def freeze_over(there: FrozenJob, changes: dict[str, Any], *, without: str | None = None) -> FrozenJob:
    """The job goes on from one whose recipe was written with `changes`, and `without` a field."""
    recipe = {name: value for name, value in there.identity["recipe"].items() if name != without} | changes
    earlier = replace(there, identity={**there.identity, "recipe": recipe})
    store = MemoryStore()
    store.replace(JOB, earlier.to_json())
    assert freeze(store, there) == earlier
    return earlier


@pytest.mark.parametrize(
    "changes", [{"notes": "Reworded."}, {"options": ["grid"]}, {"longest": 1024}, {"source": "FluxPipeline2"}]
)
def test_words_for_people_are_no_part_of_a_job(changes: dict[str, Any], found: ResolvedJob) -> None:
    freeze_over(found.frozen, changes)


def test_a_field_that_an_earlier_release_did_not_have_is_no_difference_at_its_default(found: ResolvedJob) -> None:
    assert freeze_over(found.frozen, {}, without="zeroes_empty").recipe == found.frozen.recipe


@pytest.mark.parametrize("changes", [{"version": 2}, {"null_text": "blurry"}, {"rows": "real"}, {"dreams": True}])
def test_what_is_computed_is_part_of_a_job(changes: dict[str, Any], found: ResolvedJob) -> None:
    with pytest.raises(JobMismatchError, match="recipe"):
        freeze_over(found.frozen, changes)
