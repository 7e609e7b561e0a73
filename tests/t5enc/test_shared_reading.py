"""Several processes of a machine read a checkpoint from its disk once; the others find it in the page cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.families import make_checkpoint

# Loads a model, and prints the bytes that came from a disk meanwhile.
LOAD = """
import sys
from pathlib import Path
from t5enc.text_encoder import TextEncoder

def count_read():
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))

before = count_read()
TextEncoder.from_pretrained(sys.argv[1], tokenizer="byt5", max_length=16, token_budget=16, device="cpu")
print(count_read() - before)
"""


def count_bytes_read(folder: Path) -> int:
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.long
def test_the_second_process_reads_nothing_from_the_disk(tmp_path: Path) -> None:
    if not Path("/proc/self/io").is_file():
        pytest.skip("needs /proc/self/io to count what is read from disks")
    make_checkpoint("t5_v1_1", tmp_path, d_model=512, d_ff=2048, num_heads=8, d_kv=64, num_layers=3)
    weights = tmp_path / "model.safetensors"
    size = weights.stat().st_size
    count_bytes_read(tmp_path)  # so that the libraries are in memory
    forget(weights)
    first = count_bytes_read(tmp_path)
    if first < size // 2:
        pytest.skip("needs a folder on a disk whose pages can be dropped from memory")
    assert count_bytes_read(tmp_path) < size // 20
