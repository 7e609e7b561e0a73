"""The index of an output's keys: what was put there is found where it was put, and nothing else is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.reuse import index as index_module
from pipelines.reuse.index import MOST_PARTS_BITS, NOT_THERE, UNREAD, KeyIndex, build_index, choose_bits, make_entries
from pipelines.reuse.index_cache import KEPT_SECONDS, open_index


def draw(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16)).astype(np.uint8)


def build(folder: Path, keys: NDArray[np.uint8], shard_rows: int = 100, bits: int = 0) -> None:
    starts = range(0, len(keys), shard_rows)
    batches = (
        make_entries(part, shard, np.arange(len(part)))
        for shard, part in enumerate(keys[start : start + shard_rows] for start in starts)
    )
    rows = np.array([len(keys[start : start + shard_rows]) for start in starts], np.int64)
    build_index(folder, batches, rows, bits)


@given(count=st.integers(0, 400), bits=st.integers(0, 8), held=st.integers(1, 300), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_every_key_is_found_in_its_place_and_no_other_is(
    count: int, bits: int, held: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("index")
    keys = draw(count, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "HELD_KEYS", held)
        build(folder, keys, 30, bits)
    index = KeyIndex(folder)
    shards, places = index.find(keys)
    assert len(index) == count
    assert (shards * 30 + places).tolist() == list(range(count))
    assert index.number(shards, places).tolist() == list(range(count))
    others, _ = index.find(draw(count, seed + 10))
    assert (others == NOT_THERE).all()


def test_a_key_that_is_the_same_in_its_first_half_only_is_not_found(tmp_path: Path) -> None:
    keys = draw(50)
    build(tmp_path, keys)
    keys[:, 15] ^= 1
    assert (KeyIndex(tmp_path).find(keys)[0] == NOT_THERE).all()


def test_of_equal_keys_the_first_is_found(tmp_path: Path) -> None:
    keys = np.concatenate([draw(10), draw(10)])
    build(tmp_path, keys, shard_rows=10)
    index = KeyIndex(tmp_path)
    assert len(index) == 10
    assert index.find(keys)[0].tolist() == [0] * 20


def test_rows_after_a_shard_that_cannot_be_read_have_no_number(tmp_path: Path) -> None:
    keys = draw(3)
    entries = (make_entries(keys[[shard]], shard, np.zeros(1, np.int64)) for shard in range(3))
    build_index(tmp_path, entries, np.array([5, UNREAD, 5]), 0)
    index = KeyIndex(tmp_path)
    assert index.number(*index.find(keys)).tolist() == [0, NOT_THERE, NOT_THERE]


def test_there_are_no_more_parts_than_files_that_a_process_opens() -> None:
    assert choose_bits(0) == choose_bits(1000) == 0
    assert choose_bits(10**8) == 5
    assert choose_bits(10**12) == MOST_PARTS_BITS


def test_an_index_is_built_once_and_again_where_it_was_left_half_built(tmp_path: Path) -> None:
    built = []

    def make(folder: Path) -> None:
        built.append(folder)
        build(folder, draw(10))

    (tmp_path / "a.building").mkdir()
    (tmp_path / "a.building" / "000.keys").write_bytes(b"half of it")
    for _ in range(2):
        assert len(open_index("a", make, tmp_path)) == 10
    assert len(built) == 1
    assert not (tmp_path / "a.building").exists()


def test_nothing_is_left_of_an_index_that_does_not_fit(tmp_path: Path) -> None:
    def fill_disk(folder: Path) -> None:
        (folder / "000.keys").write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        open_index("a", fill_disk, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_what_was_not_used_for_a_week_is_removed(tmp_path: Path) -> None:
    for name in ("old", "new"):
        open_index(name, lambda folder: build(folder, draw(10)), tmp_path)
    long_ago = time.time() - KEPT_SECONDS - 60
    os.utime(tmp_path / "old", (long_ago, long_ago))
    open_index("other", lambda folder: build(folder, draw(10)), tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"new", "other"}


BUILD = """
import sys, time
from pathlib import Path
from tests.pipelines.reuse.test_index import build, draw
from pipelines.reuse.index_cache import open_index

def make(folder):
    print("building", flush=True)
    sys.stdin.readline()
    build(folder, draw(10))

open_index("a", make, Path(sys.argv[1]))
print("done", flush=True)
"""


def test_a_builder_that_is_killed_lets_the_next_one_build(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "building\n"
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
            first.kill()
            out, _ = second.communicate("\n")
    assert out == "building\ndone\n"
    assert len(KeyIndex(tmp_path / "a")) == 10
