"""Open shards read what lies at a place, whichever filesystem they lie on, and are closed when nobody has them."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.shards.files import FsspecShard, LocalShard, OpenShard, StoredShard, open_shard

CONTENT = bytes(range(200))


def open_all(path: Path) -> list[OpenShard]:
    fsspec = pytest.importorskip("fsspec")
    local = pafs.LocalFileSystem()
    other = pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem("file")))
    return [open_shard(local, str(path)), StoredShard(local, str(path)), open_shard(other, str(path))]


@given(offset=st.integers(0, 210), sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_bytes_from_a_place_on_fill_buffers_as_far_as_there_are(
    tmp_path_factory: pytest.TempPathFactory, offset: int, sizes: Sequence[int]
) -> None:
    path = tmp_path_factory.mktemp("files") / "x"
    path.write_bytes(CONTENT)
    for shard in open_all(path):
        buffers = [np.zeros(size, np.uint8) for size in sizes]
        got = shard.read_into(buffers, offset)
        expected = CONTENT[offset : offset + sum(sizes)]
        assert got == len(expected)
        assert np.concatenate(buffers).tobytes()[:got] == expected


def test_each_filesystem_has_its_kind(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    assert [type(shard) for shard in open_all(tmp_path / "x")] == [LocalShard, StoredShard, FsspecShard]
    assert {shard.stamp[0] for shard in open_all(tmp_path / "x")} == {len(CONTENT)}


def test_a_read_that_the_system_ends_early_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    whole = os.preadv

    def read_little(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        return whole(descriptor, [memoryview(buffers[0])[:3]], offset)

    monkeypatch.setattr(os, "preadv", read_little)
    buffers = [np.zeros(size, np.uint8) for size in (10, 1, 7)]
    assert LocalShard(str(tmp_path / "x")).read_into(buffers, 5) == 18
    assert np.concatenate(buffers).tobytes() == CONTENT[5:23]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a list of this process's open files")
def test_a_file_is_closed_when_nobody_has_it(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    shards = [LocalShard(str(tmp_path / "x")) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 5
    del shards
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_not_there_leaves_nothing_open(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LocalShard(str(tmp_path / "x"))
