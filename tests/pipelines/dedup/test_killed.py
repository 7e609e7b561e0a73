"""Real Ray and real kills: a command with dedup whose driver is killed ten times ends as an undisturbed plain one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import DriverError
from tests.pipelines.conftest import WriteCaptions
from tests.pipelines.dedup.jobs import assert_as_plain

REPOSITORY = Path(__file__).resolve().parents[3]
KILLS = 5
OPTIONS = ("--rows-per-shard", "50", "--storage-dtype", "float32", "--deterministic")


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_a_driver_killed_ten_times_ends_as_an_undisturbed_plain_run(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    inputs, plain = write_captions(sample_captions() * 4, rows_per_file=200), tmp_path / "plain"
    assert run_to_the_end(inputs, plain) == 0
    chance = random.Random(0)
    for duplicates in ("copied", "referenced"):
        output, options = tmp_path / duplicates, ("--dedup", "job", "--duplicates", duplicates)
        for _ in range(KILLS):
            kill_once(inputs, output, options, chance)
        assert run_to_the_end(inputs, output, *options) == 0
        assert_as_plain(output, plain)


def command(inputs: Path, output: Path, *options: str) -> list[str]:
    arguments = [str(inputs), "--output", str(output), "--model", "builtin:tiny", *OPTIONS, *options]
    return [sys.executable, "-m", "t5enc", "encode", *arguments]


def run_to_the_end(inputs: Path, output: Path, *options: str) -> int:
    return subprocess.run(command(inputs, output, *options), cwd=REPOSITORY, check=False).returncode


def kill_once(inputs: Path, output: Path, options: tuple[str, ...], chance: random.Random) -> None:
    """Kill the driver when it has written some more: keys, captions, shared embeddings or shards."""
    process = subprocess.Popen(command(inputs, output, *options), cwd=REPOSITORY, stderr=subprocess.PIPE)
    goal = count_files(output) + chance.choice([0, 3, 6, 12])
    patience = time.monotonic() + chance.uniform(10, 60)
    while process.poll() is None and time.monotonic() < patience and count_files(output) < goal:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 1))
    for driver in children(process.pid):
        os.kill(driver, signal.SIGKILL)
    _, said = process.communicate(timeout=600)
    if process.returncode != 0:
        assert process.returncode == DriverError.exit_code
        assert b"To go on, run" in said


def count_files(output: Path) -> int:
    return sum(1 for _ in output.rglob("*"))


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
