"""A job on a cluster that has no node yet: Ray's autoscaler adds what it asks for, and takes it away afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5enc import load_embeddings
from t5enc.errors import ConfigError
from tests.cluster.patience import PATIENCE, wait_until
from tests.cluster.ray_start.growth import LABELS
from tests.cluster.ray_start.ray_cluster import RayCluster, running_cluster
from tests.pipelines.driving import start_driver

TEXTS = [f"a photo of {number} birds" for number in range(2000)]
NODES = 3


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """A head that may have three nodes."""
    with running_cluster(grows_to=NODES) as started:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            monkeypatch.setenv(name, started.environment[name])
        yield started


@pytest.mark.cluster
def test_a_cluster_grows_with_its_job_and_shrinks_after_it(cluster: RayCluster, tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": TEXTS}), tmp_path / "captions.parquet")
    asked = ask_for(cluster, tmp_path / "captions.parquet")
    driver = start_driver(tmp_path / "some", asked | {"actors": f"1:{NODES}", "label_selector": LABELS})
    refused = start_driver(tmp_path / "none", asked | {"resources": {"slot": 1}})
    most = 0
    while driver.poll() is None:
        most = max(most, len(cluster.list_raylets()) - 1)
        time.sleep(0.2)
    said = (tmp_path / "some" / "driver.log").read_text()
    assert driver.returncode == 0, said
    assert "no node has room for an actor that takes CPU 1, zone=grown: asking for one" in said
    assert "nodes are being started (worker)" in said
    assert 2 <= most <= NODES
    table, _ = load_embeddings(str(tmp_path / "some" / "out"))
    assert table["caption"].to_pylist() == TEXTS

    assert refused.wait(timeout=PATIENCE) != 0
    said = (tmp_path / "none" / "driver.log").read_text()
    assert f"{ConfigError.__name__}: actors: expected room for 1 that take CPU 1, slot 1 each" in said
    assert "the cluster's autoscaler has no such nodes to add" in said
    wait_until(lambda: len(cluster.list_raylets()) == 1, "nodes are there that nobody needs")


def ask_for(cluster: RayCluster, captions: Path) -> dict[str, Any]:
    """Options of a job of many small shards."""
    options = {"rows_per_shard": 10, "token_budget": 512, "device": "cpu", "cpus_per_actor": 1}
    return options | {"inputs": [str(captions)], "ray_address": cluster.environment["RAY_ADDRESS"]}
