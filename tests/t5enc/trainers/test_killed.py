"""An export that is killed at any moment leaves nothing torn, and is complete when it is run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t5enc.errors import OutputError
from t5enc.trainers import export_embeddings
from t5enc.trainers.record import FOLDER, RUNS, hold
from tests.t5enc.trainers.outputs import write_output
from tests.t5enc.trainers.test_export import list_files

CAPTIONS = [f"caption {index}" for index in range(600)]


def kill(name: str, ending: str, output: Path, to: Path, kills: int, most: int) -> list[int]:
    """How many files there were after each of so many killed runs."""
    words = map(str, (name, ending, output, to, kills, most))
    command = [sys.executable, "-m", "tests.t5enc.trainers.killing", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [int(count) for count in done.stdout.split()]


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.long)])
def test_killed_at_any_moment_and_run_again_it_is_complete(tmp_path: Path, kills: int) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, rows_per_shard=50)
    export_embeddings("musubi", made.folder, tmp_path / "whole")
    whole, cache = list_files(tmp_path / "whole"), tmp_path / "cache"
    counts = kill("musubi", "_wan_te.safetensors", made.folder, cache, kills, 40)
    there = {name: data for name, data in list_files(cache).items() if not name.endswith(".t5enc-tmp")}
    assert there.items() <= whole.items()
    assert 0 < counts[0] < len(CAPTIONS)
    report = export_embeddings("musubi", made.folder, cache)
    assert (report.whole, report.files) == (len(there), len(CAPTIONS) - len(there))
    assert list_files(cache) == whole


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.long)])
def test_tars_are_whole_after_any_kill_and_complete_with_their_index(tmp_path: Path, kills: int) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, rows_per_shard=6, storage="float16")
    export_embeddings("webdataset", made.folder, tmp_path / "whole")
    whole, cache = list_files(tmp_path / "whole"), tmp_path / "cache"
    counts = kill("webdataset", ".tar", made.folder, cache, kills, 10)
    there = {name: data for name, data in list_files(cache).items() if not name.endswith(".t5enc-tmp")}
    assert there.items() <= whole.items()
    assert 0 < counts[0] < 100
    assert ("index.json" in there) <= (counts[-1] == 100)
    export_embeddings("webdataset", made.folder, cache)
    assert list_files(cache) == whole


def test_after_a_machine_went_down_files_of_an_unfinished_export_are_written_anew(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS[:10])
    cache = tmp_path / "cache"
    export_embeddings("musubi", made.folder, cache)
    (record,) = (cache / FOLDER).glob("*.json")
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"boot": "another"}))
    assert export_embeddings("musubi", made.folder, cache).whole == 10  # it was finished, and all on the disk
    record.write_text(json.dumps(content | {"boot": "another", "is_finished": False}))
    torn = cache / "3_wan_te.safetensors"
    whole = torn.read_bytes()
    torn.write_bytes(b"")
    later = int((cache / FOLDER / RUNS).read_text().split()[0]) + 1
    for path in cache.glob("*.safetensors"):
        os.utime(path, ns=(later, later))
    assert export_embeddings("musubi", made.folder, cache).files == 10
    assert torn.read_bytes() == whole


def test_two_exports_at_once_are_refused(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS[:3])
    with hold(tmp_path / "cache"), pytest.raises(OutputError, match="expected no other export at work there"):
        export_embeddings("musubi", made.folder, tmp_path / "cache")


def test_what_the_disk_refuses_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS[:3])
    (tmp_path / "cache" / "1_wan_te.safetensors").mkdir(parents=True)
    with pytest.raises(OutputError, match="1_wan_te"):
        export_embeddings("musubi", made.folder, tmp_path / "cache", overwrite=True)
