"""Rows are read in stretches of neighbours, each row once, and never more at one go than is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.errors import OutputError
from t5enc.shards import byte_ranges
from t5enc.shards.byte_ranges import Wanted, cut_runs, read_run
from t5enc.shards.files import LocalShard

LENGTH = 4


def lay_out(sizes: Sequence[int]) -> tuple[bytes, list[int]]:
    """Values one after the other as a page has them, and where their lengths stand."""
    content, starts = b"head", []
    for place, size in enumerate(sizes):
        starts.append(len(content))
        content += size.to_bytes(LENGTH, "little") + bytes([place % 251]) * size
    return content, starts


@given(sizes=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=9), min_size=1, max_size=3), data=st.data())
def test_each_row_is_in_one_stretch_of_neighbours(sizes: list[list[int]], data: st.DataObject) -> None:
    rows = [(shard, place) for shard, part in enumerate(sizes) for place in range(len(part))]
    asked = data.draw(st.lists(st.sampled_from(rows), max_size=20))
    starts = [lay_out(part)[1] for part in sizes]
    wanted = Wanted(
        places=np.arange(len(asked)),
        shards=np.array([shard for shard, _ in asked], np.int64),
        starts=np.array([starts[shard][place] for shard, place in asked], np.int64),
        sizes=np.array([sizes[shard][place] for shard, place in asked], np.int64),
    )
    most, most_rows = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_ranges, "RUN_BYTES", most)
        patch.setattr(byte_ranges, "RUN_ROWS", most_rows)
        ordered, bounds = cut_runs(wanted)
    assert sorted(ordered.places.tolist()) == list(range(len(asked)))
    assert (bounds[0], bounds[-1]) == (0, len(asked))
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        ends = ordered.starts[first:last] + LENGTH + ordered.sizes[first:last]
        assert len(set(ordered.shards[first:last].tolist())) == 1
        assert (ordered.starts[first + 1 : last] == ends[:-1]).all()
        assert last - first == 1 or (last - first <= most_rows and ends[-1] - ordered.starts[first] <= most)


def test_a_stretch_is_read_at_one_go_however_many_rows_it_has(tmp_path: Path) -> None:
    """More buffers than the system takes at once."""
    sizes = [place % 7 for place in range(1500)]
    content, starts = lay_out(sizes)
    (tmp_path / "x").write_bytes(content)
    shard = LocalShard(str(tmp_path / "x"))
    buffers = [np.zeros(size, np.uint8) for size in sizes]
    assert read_run(shard, shard.stamp, starts[0], buffers).all()
    assert [set(buffer.tolist()) for buffer in buffers] == [
        {place % 251} if size else set() for place, size in enumerate(sizes)
    ]


def test_a_row_of_another_length_is_told(tmp_path: Path) -> None:
    content, starts = lay_out([3, 5, 2])
    (tmp_path / "x").write_bytes(content[: starts[1]] + b"\x04" + content[starts[1] + 1 :])
    shard = LocalShard(str(tmp_path / "x"))
    assert read_run(shard, shard.stamp, starts[0], [np.zeros(size, np.uint8) for size in (3, 5, 2)]).tolist() == [
        True,
        False,
        True,
    ]


def test_a_file_that_ends_early_is_an_error_by_name(tmp_path: Path) -> None:
    content, starts = lay_out([3, 5])
    (tmp_path / "x").write_bytes(content[:-1])
    shard = LocalShard(str(tmp_path / "x"))
    with pytest.raises(OutputError, match=r"x: expected 16 bytes at byte 4, got 15: the file is torn"):
        read_run(shard, shard.stamp, starts[0], [np.zeros(3, np.uint8), np.zeros(5, np.uint8)])
