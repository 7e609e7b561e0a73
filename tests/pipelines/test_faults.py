"""Processes are killed, disks fill, captions kill: nothing is lost, nothing comes twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines import encode as encode_module
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import DriverError, OutputError, T5encError
from tests.pipelines.conftest import WriteCaptions
from tests.pipelines.killing import BrokenWorker, UnloadableWorker
from tests.pipelines.same_rows import assert_equal_outputs

REPOSITORY = Path(__file__).resolve().parents[2]


def job(inputs: Path, output: Path, **options: object) -> EncodeJob:
    return EncodeJob.from_mapping(
        {"inputs": [str(inputs)], "output": str(output), "model": "builtin:tiny", "storage_dtype": "float32"} | options
    )


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_a_model_whose_loading_kills_ends_the_run_with_a_message(
    write_captions: WriteCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_module, "SpanWorker", UnloadableWorker)
    with pytest.raises(DriverError, match="died while loading the model"):
        encode_parquet(job(write_captions(["a red bird"]), tmp_path / "out"))


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_an_actor_that_dies_and_cannot_be_started_again_ends_the_run(
    write_captions: WriteCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_module, "SpanWorker", BrokenWorker)
    with pytest.raises(T5encError, match="the weights are gone"):
        encode_parquet(job(write_captions(), tmp_path / "out", rows_per_shard=20, token_budget=512))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("in_process")
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(
    write_captions: WriteCaptions, tmp_path: Path, tiny_disk: Path
) -> None:
    inputs = write_captions()
    options = {"rows_per_shard": 25}
    encode_parquet(job(inputs, tmp_path / "expected", **options))
    with pytest.raises(OutputError, match="the disk is full"):
        encode_parquet(job(inputs, tiny_disk / "out", **options))
    committed = [p for p in (tiny_disk / "out").rglob("*-*.parquet") if p.is_file()]
    assert committed, "some shards fitted"
    before = {path: path.stat().st_mtime_ns for path in committed}
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    encode_parquet(job(inputs, tiny_disk / "out", **options))
    assert {path: path.stat().st_mtime_ns for path in committed} == before, "what was committed is not redone"
    assert_equal_outputs(tiny_disk / "out", tmp_path / "expected")


KILLS = 10


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_a_driver_killed_ten_times_ends_as_an_undisturbed_run(write_captions: WriteCaptions, tmp_path: Path) -> None:
    inputs = write_captions(sample_captions() * 20, rows_per_file=700)
    expected, output = tmp_path / "expected", tmp_path / "out"
    assert run_to_the_end(inputs, expected) == 0
    chance = random.Random(0)
    for _ in range(KILLS):
        kill_once(inputs, output, chance)
    assert run_to_the_end(inputs, output) == 0
    assert_equal_outputs(output, expected)


def command(inputs: Path, output: Path) -> list[str]:
    arguments = [str(inputs), "--output", str(output), "--model", "builtin:tiny", "--rows-per-shard", "50"]
    return [sys.executable, "-m", "t5enc", "encode", *arguments, "--token-budget", "512", "--storage-dtype", "float32"]


def run_to_the_end(inputs: Path, output: Path) -> int:
    return subprocess.run(command(inputs, output), cwd=REPOSITORY, capture_output=True, check=False).returncode


def kill_once(inputs: Path, output: Path, chance: random.Random) -> None:
    """Start the command, kill its driver at some moment: while it starts, or after some more shards."""
    process = subprocess.Popen(command(inputs, output), cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    goal = count_shards(output) + chance.choice([0, 1, 3, 8])
    patience = time.monotonic() + chance.uniform(0.5, 40)
    while process.poll() is None and time.monotonic() < patience and count_shards(output) < goal:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 0.5))
    for driver in children(process.pid):
        os.kill(driver, signal.SIGKILL)
    _, said = process.communicate(timeout=600)  # the driver was not there yet, perhaps, and does all that is left
    if process.returncode != 0:
        assert process.returncode == DriverError.exit_code
        assert b"To go on, run" in said


def count_shards(output: Path) -> int:
    return sum(1 for path in output.rglob("0*-*.parquet")) if output.exists() else 0


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
