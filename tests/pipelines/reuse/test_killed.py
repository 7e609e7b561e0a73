"""The whole command with --reuse, killed ten times on real Ray, with its earlier output gone from the fifth time on."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t5enc.checkpoint.builtin import sample_captions
from tests.pipelines.conftest import WriteCaptions
from tests.pipelines.same_rows import assert_equal_outputs

REPOSITORY = Path(__file__).resolve().parents[3]
KILLS = 10
CAPTIONS = [f"{caption} {n}" for n in range(20) for caption in sample_captions()]


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_a_command_killed_ten_times_ends_as_a_fresh_one(write_captions: WriteCaptions, tmp_path: Path) -> None:
    some = write_captions(CAPTIONS[::2], folder="some", rows_per_file=700)
    inputs = write_captions(CAPTIONS, folder="all", rows_per_file=700)
    old, fresh, output = (tmp_path / name for name in ("old", "fresh", "out"))
    for captions, made in ((some, old), (inputs, fresh)):
        assert subprocess.run(command(captions, made), cwd=REPOSITORY, capture_output=True, check=False).returncode == 0
    chance = random.Random(0)
    for number in range(KILLS):
        if number == KILLS // 2:
            shutil.rmtree(old)
        kill_once([*command(inputs, output), "--reuse", str(old)], output, chance)
    last = [*command(inputs, output), "--reuse", str(old)]
    done = subprocess.run(last, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_equal_outputs(output, fresh)


def command(inputs: Path, output: Path) -> list[str]:
    arguments = [str(inputs), "--output", str(output), "--model", "builtin:tiny", "--rows-per-shard", "25"]
    return [sys.executable, "-m", "t5enc", "encode", *arguments, "--token-budget", "512", "--deterministic"]


def kill_once(command: list[str], output: Path, chance: random.Random) -> None:
    """Start it, and end all of its processes at some moment: while it starts, or after some more shards."""
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    goal = count_shards(output) + chance.choice([0, 1, 3, 8])
    patience = time.monotonic() + chance.uniform(0.5, 40)
    while process.poll() is None and time.monotonic() < patience and count_shards(output) < goal:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 0.5))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


def count_shards(output: Path) -> int:
    return sum(1 for path in output.rglob("0*-*.parquet")) if output.exists() else 0
