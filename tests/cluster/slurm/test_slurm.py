"""The Slurm script starts Ray on an allocation, encodes, comes back when its time is up, and leaves nothing behind."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5enc import TextEncoder, load_embeddings
from tests.cluster.kubernetes.manifests import FOLDER
from tests.cluster.patience import PATIENCE, wait_until
from tests.cluster.slurm.allocation import Allocation

pytest.importorskip("ray.data", reason="needs ray[data]")

TEXTS = [f"a photo of {number} birds" for number in range(60)]
JOB = """
inputs: [{folder}/captions.parquet]
output: {folder}/out
model: builtin:tiny
device: cpu
rows-per-shard: 10
actors: 1
cpus-per-actor: 1
"""


@pytest.fixture
def allocation(tmp_path: Path) -> Iterator[Allocation]:
    """Two nodes, and a job that waits to be encoded on them."""
    pq.write_table(pa.table({"caption": TEXTS}), tmp_path / "captions.parquet")
    (tmp_path / "job.yaml").write_text(JOB.format(folder=tmp_path))
    with tempfile.TemporaryDirectory(prefix="t5enc-", dir="/tmp") as ray_folder:
        allocation = Allocation(tmp_path, Path(ray_folder))
        yield allocation
        allocation.kill()


@pytest.mark.cluster
def test_a_job_whose_time_is_up_comes_back_and_ends_with_every_row(allocation: Allocation) -> None:
    first = allocation.start("--config", "job.yaml")
    wait_until(
        lambda: (allocation.folder / "out" / "_t5enc" / "job.json").exists() or first.poll() is not None, "no job"
    )
    first.send_signal(signal.SIGUSR1)
    said, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 5, said
    assert allocation.log[-1] == f"scontrol requeue {allocation.job_id}"
    assert_nothing_is_left(allocation)

    again = allocation.start("--config", "job.yaml")
    said, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert allocation.log[-1].startswith("srun")
    check_rows(allocation.folder / "out")
    check_nodes(allocation.log)
    assert allocation.list_scraped()
    assert_nothing_is_left(allocation)


def check_rows(output: Path) -> None:
    """Every row is there, in order, with the numbers of its caption."""
    table, embeddings = load_embeddings(str(output))
    assert table["caption"].to_pylist() == TEXTS
    expected = TextEncoder.from_pretrained("builtin:tiny").encode(TEXTS)
    assert (embeddings.values.float() - expected.values).abs().max() < 2e-3


def check_nodes(log: list[str]) -> None:
    """The head of Ray was started on the first node, and a further Ray on the other."""
    started = [line for line in log if " ray start " in line][-2:]
    assert [re.search(r"--nodelist=(\S+)", line).group(1) for line in started] == ["node1", "node2"]  # type: ignore[union-attr]
    assert ["--head" in line for line in started] == [True, False]
    assert not any("RAY_AUTH_TOKEN" in line or "--token" in line for line in log)


def assert_nothing_is_left(allocation: Allocation) -> None:
    """No process of the job runs on the nodes any more."""
    wait_until(lambda: not allocation.processes(), f"still there: {allocation.processes()}")


def test_an_allocation_that_is_taken_away_before_there_is_a_driver_ends_at_once(allocation: Allocation) -> None:
    (allocation.folder / "srun").write_text("#!/bin/bash\necho srun >> $SLURM_LOG\nexec sleep 600\n")
    started = allocation.start("--config", "job.yaml")
    wait_until(lambda: "srun" in allocation.log, "srun was not called")
    started.send_signal(signal.SIGTERM)
    allocation.kill()
    started.communicate(timeout=PATIENCE)
    assert started.returncode != 0
    assert not any("requeue" in line for line in allocation.log)


@pytest.mark.parametrize(
    ("restarts", "told"), [({}, ["--overwrite"]), ({"SLURM_RESTART_COUNT": "0"}, ["--overwrite"]),
                           ({"SLURM_RESTART_COUNT": "2"}, ["--resume"])]
)  # fmt: skip
def test_a_job_that_comes_back_does_not_begin_anew(
    restarts: dict[str, str], told: list[str], allocation: Allocation
) -> None:
    """Without Ray: what the script gives to `t5enc`."""
    for program, script in {"srun": "echo 127.0.0.1:1", "ray": "", "python": ""}.items():
        allocation.replace(program, script)
    allocation.replace("t5enc", 'echo "t5enc $*" >> "$SLURM_LOG"')
    started = allocation.start("--config", "the job.yaml", "--overwrite", **restarts)
    said, _ = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0, said
    (line,) = [line for line in allocation.log if line.startswith("t5enc")]
    words = line.split()
    assert [word for word in words if word in ("--overwrite", "--resume")] == told
    assert "--config the job.yaml" in line
    assert words[:2] == ["t5enc", "encode"]
    assert words[-2:] == ["--ray-address", "127.0.0.1:1"]


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck (Debian: apt-get install shellcheck)")
    found = subprocess.run(["shellcheck", str(FOLDER / "slurm.sh")], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_bash_can_read_it() -> None:
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=True)
