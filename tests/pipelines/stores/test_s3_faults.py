"""The main job from S3 to S3: the server fails, the driver is killed, and the result is an undisturbed run's."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipelines.commands.fsck import check_output
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import DriverError
from tests.pipelines.conftest import WriteCaptions
from tests.pipelines.stores.s3_server import (
    CREDENTIALS,
    FaultyProxy,
    by_chance,
    connect,
    cut,
    hold,
    lose,
    refuse,
    reset,
    run_faulty_proxy,
)

REPOSITORY = Path(__file__).resolve().parents[3]
FAULTS = {
    "500": refuse(500, "InternalError"),
    "503": refuse(503, "SlowDown"),
    "cut": cut,
    "hold": hold(20),
    "lose": lose,
    "reset": reset,
}
RATE = 0.1
# Only for a run that would otherwise never end.
PATIENCE = 900.0


class Run:
    """`t5enc encode` in a process, told of an S3 server by its environment."""

    def __init__(self, inputs: str, output: str) -> None:
        arguments = [inputs, "--output", output, "--model", "builtin:tiny", "--rows-per-shard", "40"]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "t5enc",
                "encode",
                *arguments,
                "--token-budget",
                "512",
                "--storage-dtype",
                "float32",
            ],
            cwd=REPOSITORY,
            env=os.environ | {"AWS_TIMEOUT": "3s"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def kill_driver(self) -> None:
        """SIGKILL to the child that does the work, if it still does."""
        for child in psutil.Process(self.process.pid).children() if self.process.poll() is None else ():
            child.send_signal(signal.SIGKILL)

    def end(self) -> tuple[int, str]:
        """Wait for it; its exit code, and what it said."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()  # its driver ends with it
        return self.process.returncode, (out + err).decode()


def upload(host: str, bucket: str, folder: Path) -> None:
    """The files of a folder, below `in/` of a new bucket."""
    client = connect(host)
    client.create_bucket(Bucket=bucket)
    for path in folder.iterdir():
        client.upload_file(str(path), bucket, f"in/{path.name}")


def list_names(host: str, bucket: str) -> list[str]:
    """What lies in a bucket."""
    pages = connect(host).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def count_shards(host: str, bucket: str) -> int:
    return sum(
        name.startswith("out/") and name.endswith(".parquet") and "-" in name for name in list_names(host, bucket)
    )


def kill_once(run: Run, server: str, bucket: str, chance: random.Random) -> None:
    """Kill the driver after some more shards, or at some moment of its start."""
    goal = count_shards(server, bucket) + chance.choice([0, 1, 2, 4])
    latest = time.monotonic() + chance.uniform(2, 40)
    while run.process.poll() is None and time.monotonic() < latest and count_shards(server, bucket) < goal:
        time.sleep(0.05)
    run.kill_driver()
    code, said = run.end()
    assert code in (0, DriverError.exit_code), said
    assert code == 0 or "To go on, run" in said


def check_equal(server: str, bucket: str, expected: Path) -> None:
    """The bucket's output is sound, equals a local one row by row, and holds no parts of unfinished uploads."""
    uri = f"s3://{bucket}/out?scheme=http&endpoint_override={server}&region=us-east-1"
    assert check_output(open_store(uri), deep=True) == []
    (table, embeddings), (wanted, exact) = load_embeddings(uri), load_embeddings(expected)
    assert table.equals(wanted)
    assert torch.equal(embeddings.offsets, exact.offsets)
    assert torch.equal(embeddings.values, exact.values)
    assert "Uploads" not in connect(server).list_multipart_uploads(Bucket=bucket)
    assert not [name for name in list_names(server, bucket) if "/_t5enc/tmp/" in name or "/_t5enc/stale/" in name]


def run_battery(
    seed: int, kills: int, repeats: int, server: str, write_captions: WriteCaptions, tmp_path: Path
) -> FaultyProxy:
    """Encode from S3 to S3 through faults and kills until done, and compare."""
    captions = write_captions(sample_captions() * repeats, rows_per_file=200)
    bucket, chance = f"seed-{seed}", random.Random(seed)
    upload(server, bucket, captions)
    code, said = Run(str(captions), str(tmp_path / "expected")).end()
    assert code == 0, said
    with run_faulty_proxy(server, by_chance(seed, RATE, FAULTS)) as proxy:
        inputs, output = f"s3://{bucket}/in{proxy.query}", f"s3://{bucket}/out{proxy.query}"
        for _ in range(kills):
            kill_once(Run(inputs, output), server, bucket, chance)
        code, said = Run(inputs, output).end()
        assert code == 0, said
    check_equal(server, bucket, tmp_path / "expected")
    return proxy


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_a_driver_killed_while_the_server_fails_ends_as_an_undisturbed_run(
    server: str, write_captions: WriteCaptions, tmp_path: Path
) -> None:
    proxy = run_battery(0, 2, 2, server, write_captions, tmp_path)
    assert sum(count for name, count in proxy.done.items() if name) > 5, "faults happened"
    there = {f"out/{name}" for name in ("_t5enc/job.json", "_SUCCESS", "_t5enc/manifest", "report.json")}
    assert there <= set(list_names(server, "seed-0"))
    report = json.loads(connect(server).get_object(Bucket="seed-0", Key="out/report.json")["Body"].read())
    assert report["is_finished"]


@pytest.mark.battery
@pytest.mark.parametrize("seed", range(1, 7))
def test_every_seed_of_faults_and_kills_ends_as_an_undisturbed_run(
    server: str, seed: int, write_captions: WriteCaptions, tmp_path: Path
) -> None:
    proxy = run_battery(seed, 5, 6, server, write_captions, tmp_path)
    assert all(proxy.done[name] for name in FAULTS), f"every fault happened: {dict(proxy.done)}"


def test_an_input_that_may_not_be_read_is_told_at_once(
    server: str, write_captions: WriteCaptions, tmp_path: Path
) -> None:
    upload(server, "forbidden", write_captions(["a red bird"]))
    with run_faulty_proxy(server, refuse(403, "AccessDenied")) as proxy:
        code, said = Run(f"s3://forbidden/in{proxy.query}", str(tmp_path / "out")).end()
        assert (code, len(proxy.requests)) == (4, 1)
        assert "ACCESS_DENIED" in said
