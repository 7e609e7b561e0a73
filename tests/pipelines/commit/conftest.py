"""An output of which everything is committed, and nothing noted."""

from __future__ import annotations

import pytest

from tests.pipelines.commit.whole_output import JOB, UNITS, CountingStore
from tests.pipelines.small_jobs import make_unit_shard


@pytest.fixture
def store() -> CountingStore:
    """The output of a run that committed everything, and noted nothing."""
    store = CountingStore()
    for unit in UNITS.values():
        store.create(unit.name, make_unit_shard(JOB, unit)[1])
    return store
