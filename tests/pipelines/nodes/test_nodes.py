"""A job on a cluster of several nodes that come and go: the result is that of a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import DriverError
from tests.cluster.ray_start.ray_cluster import running_cluster
from tests.pipelines.driving import REPOSITORY, start_driver
from tests.pipelines.in_process import encode_in_process
from tests.pipelines.nodes.disturbing import Scenario, await_truth, count_shards, find_busy
from tests.pipelines.nodes.nodes import SLOT, running_nodes, running_spot_node
from tests.pipelines.same_rows import assert_same_rows

EVENTS = 8
UNITS = 93
# Only for a process that would otherwise never end, in seconds.
LONG = 1200
OPTIONS: dict[str, Any] = {"rows_per_shard": 10, "token_budget": 512, "storage_dtype": "float32"}
PLACING: dict[str, Any] = {"device": "cpu", "cpus_per_actor": 1}

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """930 captions in six files: 93 units."""
    folder = tmp_path_factory.mktemp("captions")
    texts = [f"{text} {copy}" for copy in range(3) for text in sample_captions()]
    for part in range(6):
        rows = texts[180 * part : 180 * (part + 1)]
        pq.write_table(pa.table({"caption": rows}), folder / f"{part}.parquet", row_group_size=30)
    return folder


@pytest.fixture(scope="module")
def expected(captions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run makes of them."""
    output = tmp_path_factory.mktemp("expected") / "out"
    options = OPTIONS | PLACING | {"actors": 2, "model": "builtin:tiny"}
    encode_in_process(EncodeJob.from_mapping(options | {"inputs": [str(captions)], "output": str(output)}))
    return output


def ask_for(captions: Path, actors: str) -> dict[str, Any]:
    """Options of a job whose encoders take a slot each."""
    return OPTIONS | PLACING | {"inputs": [str(captions)], "actors": actors, "resources": SLOT}


def list_careful(folder: Path) -> set[str]:
    """Units that were encoded as suspects."""
    return {path.name for path in (folder / "careful").iterdir()}


def disturb(seed: int, captions: Path, expected: Path, folder: Path) -> None:
    """A run on four nodes to which eight things happen."""
    with running_nodes(4) as nodes:
        scenario = Scenario(nodes, folder, ask_for(captions, "1:4"), seed)
        scenario.run([None] * EVENTS)
        scenario.say(f"done, {scenario.count_deaths()} encoders died at work, careful with {list_careful(folder)}")
    assert scenario.count_deaths() >= 1
    assert_same_rows(folder / "out", expected, list_careful(folder))


@pytest.mark.parametrize("seed", [0, 1])
def test_nodes_and_actors_that_die_lose_nothing(seed: int, captions: Path, expected: Path, tmp_path: Path) -> None:
    disturb(seed, captions, expected, tmp_path)


@pytest.mark.battery
@pytest.mark.parametrize("seed", range(2, 12))
def test_nodes_and_actors_that_die_lose_nothing_whatever_the_seed(
    seed: int, captions: Path, expected: Path, tmp_path: Path
) -> None:
    disturb(seed, captions, expected, tmp_path)


def test_a_job_goes_on_with_any_number_of_nodes(captions: Path, expected: Path, tmp_path: Path) -> None:
    for count, goal in ((4, 30), (1, 40)):
        with running_nodes(count) as nodes:
            driver = start_driver(tmp_path, ask_for(captions, f"1:{count}") | {"ray_address": nodes.address})
            await_truth(lambda: count_shards(tmp_path) >= goal or driver.poll() is not None)  # noqa: B023
            driver.kill()
            driver.wait()
    assert count_shards(tmp_path) < UNITS, "the last run has something to do"
    with running_nodes(12) as nodes:
        driver = start_driver(tmp_path, ask_for(captions, "1:12") | {"ray_address": nodes.address})
        assert driver.wait(timeout=LONG) == 0
    assert_same_rows(tmp_path / "out", expected)


def test_a_node_that_gets_a_sigterm_finishes_its_unit_and_others_do_the_rest(
    captions: Path, expected: Path, tmp_path: Path
) -> None:
    with running_nodes(1) as nodes, running_spot_node(nodes) as spot:
        driver = start_driver(tmp_path, ask_for(captions, "2:2") | {"ray_address": nodes.address})
        await_truth(lambda: spot in find_busy(nodes, tmp_path).values() or driver.poll() is not None)
        encoders = [process for process, node in nodes.find_encoders().items() if node is spot]
        before = count_shards(tmp_path)
        spot.process.send_signal(signal.SIGTERM)
        assert driver.wait(timeout=LONG) == 0
        spot.process.wait(timeout=LONG)
    assert before < UNITS - 2, "the node had work left when it was told to go"
    assert not any((tmp_path / "in-hand" / str(process)).exists() for process in encoders), "nothing died in hand"
    assert list_careful(tmp_path) == set()
    assert_same_rows(tmp_path / "out", expected)


@pytest.mark.battery
def test_a_head_that_dies_ends_the_run_with_a_message_and_the_same_command_goes_on(
    captions: Path, tmp_path: Path
) -> None:
    many = tmp_path / "in"
    many.mkdir()
    for part in range(8):
        for name in captions.iterdir():
            os.link(name, many / f"{part}-{name.name}")
    # Of processes of its own: one that has talked to a head ends a minute after it, and the tests have to go on.
    with running_cluster() as cluster:
        cluster.add_worker(2)
        address = cluster.environment["RAY_ADDRESS"]
        waiting = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15"}
        driver = start_command(many, tmp_path, address, cluster.environment | waiting)
        await_truth(lambda: count_shards(tmp_path) >= 5 or driver.poll() is not None)
        cluster.kill_head()
        _, said = driver.communicate(timeout=LONG)
    assert driver.returncode == DriverError.exit_code, said
    assert f"the Ray cluster at {address} has lost its head".encode() in said
    assert b"To go on, run:\n" in said
    assert count_shards(tmp_path) < 8 * UNITS, "the second run has something to do"
    with running_nodes(1) as nodes:
        driver = start_command(many, tmp_path, nodes.address, {"RAY_AUTH_MODE": "disabled"})
        _, said = driver.communicate(timeout=LONG)
        assert driver.returncode == 0, said
    options = OPTIONS | {"inputs": [str(many)], "output": str(tmp_path / "expected"), "model": "builtin:tiny"}
    encode_in_process(EncodeJob.from_mapping(options | PLACING))
    assert_same_rows(tmp_path / "out", tmp_path / "expected")


def start_command(inputs: Path, folder: Path, address: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """`t5enc encode` on a cluster."""
    words = ["--rows-per-shard", "10", "--token-budget", "512", "--storage-dtype", "float32", "--device", "cpu"]
    words += ["--ray-address", address, "--actors", "1:2", "--cpus-per-actor", "1"]
    command = [
        sys.executable,
        "-m",
        "t5enc",
        "encode",
        str(inputs),
        "-o",
        str(folder / "out"),
        "--model",
        "builtin:tiny",
    ]
    return subprocess.Popen(
        [*command, *words],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
