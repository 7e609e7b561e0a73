"""The commit protocol over a real S3 server that fails by chance: drivers die at any operation, two work at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from pipelines.commands.fsck import check_output
from pipelines.commit.protocol import begin_commit, commit_shard, conclude_commit
from pipelines.plan.units import PlannedFile
from pipelines.stores import retrying
from pipelines.stores.object_store import ObjectStore
from pipelines.stores.store import Store, open_store
from t5enc.errors import JobMismatchError
from t5enc.output import read_manifest
from t5enc.storage.filesystems import open_filesystem
from tests.pipelines.commit.drivers import Killed, Mortal
from tests.pipelines.small_jobs import caption, make_job, make_unit_shard, plan_file, read_captions_of
from tests.pipelines.stores.s3_server import (
    CREDENTIALS,
    FaultyProxy,
    by_chance,
    connect,
    cut,
    lose,
    refuse,
    reset,
    run_faulty_proxy,
)

FAULTS = {
    "500": refuse(500, "InternalError"),
    "503": refuse(503, "SlowDown"),
    "cut": cut,
    "lose": lose,
    "reset": reset,
}
FILES = [plan_file("a.parquet", rows=5), plan_file("b/c.parquet", rows=2)]
RATE = 0.2


@pytest.fixture(params=range(2))
def proxy(server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy that fails by the seed of that number."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    with run_faulty_proxy(server, by_chance(request.param, RATE, FAULTS)) as proxy:
        yield proxy


@pytest.fixture
def store(server: str, proxy: FaultyProxy, request: pytest.FixtureRequest) -> ObjectStore:
    connect(server).create_bucket(Bucket="protocol")
    store = open_store(f"s3://protocol/{request.node.name}{proxy.query}")
    assert isinstance(store, ObjectStore)
    return store


def run_job(store: Store, files: list[PlannedFile], *, rounding: int = 0) -> list[str]:
    """A run from its begin to its end, of made-up shards; the names it vouches for."""
    commit = begin_commit(store, make_job(), files)
    for unit in list(commit.left):
        record, shard = make_unit_shard(commit.frozen, unit, rounding=rounding)
        commit.records[unit.name] = commit_shard(store, record, shard)
    conclude_commit(store, commit)
    return list(commit.units)


def check_whole(proxy: FaultyProxy, store: ObjectStore, names: list[str]) -> None:
    """The output is finished and sound, and holds every row once, in order."""
    proxy_store = open_store(f"{store.uri}{proxy.query}")
    assert check_output(proxy_store, deep=True) == []
    filesystem, root = open_filesystem(f"{store.uri}?scheme=http&endpoint_override={proxy.target}&region=us-east-1")
    assert read_manifest(filesystem, root)["name"].to_pylist() == names
    rows = [row for name in names for row in read_captions_of(proxy_store.read(name)) or ()]
    assert rows == [caption(planned.file.source, 1, row) for planned in FILES for row in range(planned.num_rows)]


def test_a_driver_that_dies_at_any_operation_is_followed_by_one_that_ends(
    store: ObjectStore, proxy: FaultyProxy, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(request.node.name)
    deaths = 0
    while True:
        mortal = cast(Store, Mortal(store, chance.randrange(10) if deaths < 10 else None))
        try:
            names = run_job(mortal, FILES, rounding=deaths % 2)
            break
        except Killed:
            deaths += 1
    assert deaths > 3
    check_whole(proxy, store, names)
    assert sum(count for name, count in proxy.done.items() if name) > 10, "the server failed meanwhile"


def test_two_drivers_at_once_end_with_one_output(store: ObjectStore, proxy: FaultyProxy) -> None:
    """Each takes for committed what the other was first to write; whoever concludes last changes nothing."""
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda rounding: run_job(store, FILES, rounding=rounding), range(2)))
    assert ended[0] == ended[1]
    check_whole(proxy, store, ended[0])


def test_another_job_is_refused(store: ObjectStore) -> None:
    run_job(store, FILES)
    with pytest.raises(JobMismatchError, match="the output holds another job"):
        begin_commit(store, make_job(max_length=77), FILES)
