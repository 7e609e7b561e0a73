"""A merge that ends at any moment goes on, and leaves nothing that readers take for the whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.derive.merge import merge_outputs
from t5enc.errors import OutputError, UnfinishedError
from t5enc.output import open_output
from tests.pipelines.derive.conftest import CAPTIONS, Encode, numbered
from tests.pipelines.derive.rows import hash_files, read_rows


class Killed(BaseException):
    """As if the process were gone."""


class Countdown:
    """Calls of the functions that change a disk, of which one is not made any more."""

    def __init__(self, left: int, is_late: bool) -> None:
        self.left = left
        self.is_late = is_late

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0 and not self.is_late:
                raise Killed
            result = function(*args, **options)
            if self.left < 0:
                raise Killed
            return result

        return call


@pytest.mark.parametrize("is_late", [False, True])
def test_killed_before_and_after_every_change_it_goes_on(tmp_path: Path, one: Path, two: Path, is_late: bool) -> None:
    inputs = [str(one), str(two)]
    before = hash_files(one), hash_files(two)
    merge_outputs(inputs, str(tmp_path / "whole"))
    expected = read_rows(tmp_path / "whole")
    deaths = 0
    for moment in range(200):
        folder = tmp_path / f"new{moment}"
        with pytest.MonkeyPatch.context() as patch:
            countdown = Countdown(moment, is_late)
            for name in ("link", "replace", "mkdir"):
                patch.setattr(os, name, countdown.wrap(getattr(os, name)))
            try:
                merge_outputs(inputs, str(folder))
            except Killed:
                deaths += 1
            else:
                break
        try:
            open_output(folder)
        except (UnfinishedError, OutputError):
            pass
        else:
            assert read_rows(folder) == expected
        merge_outputs(inputs, str(folder))
        assert read_rows(folder) == expected
        assert not list((folder / "_t5enc" / "tmp").iterdir())
    assert deaths > 10
    assert (hash_files(one), hash_files(two)) == before


def test_a_finished_one_is_not_touched_again(tmp_path: Path, one: Path, two: Path) -> None:
    first = merge_outputs([str(one), str(two)], str(tmp_path / "new"))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").rglob("*")}
    assert merge_outputs([str(one), str(two)], str(tmp_path / "new")) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "new").rglob("*")} == times


def test_shards_that_a_finished_one_has_lost_are_put_there_again(tmp_path: Path, one: Path, two: Path) -> None:
    new = tmp_path / "new"
    first = merge_outputs([str(one), str(two)], str(new))
    expected, shards = read_rows(new), open_output(new).shards
    for is_link in (True, False):
        lost = next(new / name for name in shards if ((new / name).stat().st_nlink > 1) == is_link)
        lost.unlink()
        assert merge_outputs([str(one), str(two)], str(new)) == first
        assert read_rows(new) == expected
    torn = next(new / name for name in shards if (new / name).stat().st_nlink == 1)
    torn.write_bytes(torn.read_bytes()[:-9])
    assert merge_outputs([str(one), str(two)], str(new)) == first
    assert read_rows(new) == expected


def test_a_finished_one_needs_what_it_was_made_of_no_more(tmp_path: Path, one: Path, encode: Encode) -> None:
    other = encode("other", {"y": numbered([*CAPTIONS[:20]])})
    assert merge_outputs([str(one), str(other)], str(tmp_path / "new")).derived.linked == 5
    shutil.rmtree(one / "data")
    found = merge_outputs([str(one), str(other)], str(tmp_path / "new")).derived
    assert (found.rows, found.linked, found.copied, found.rewritten) == (60, 2, 3, 0)


def test_a_full_disk_is_told_and_the_same_command_goes_on(
    tmp_path: Path, one: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.stores import store

    written, calls = store._write_synced, 0

    def fill(path: Path, data: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls > 3:
            path.write_bytes(bytes(data[:10]))
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, data)

    monkeypatch.setattr(store, "_write_synced", fill)
    with pytest.raises(OutputError, match="the disk is full"):
        merge_outputs([str(one), str(two)], str(tmp_path / "new"))
    with pytest.raises(UnfinishedError):
        open_output(tmp_path / "new")
    monkeypatch.setattr(store, "_write_synced", written)
    merge_outputs([str(one), str(two)], str(tmp_path / "new"))
    assert len(read_rows(tmp_path / "new")) == 58


def test_a_damaged_shard_is_never_linked(tmp_path: Path, one: Path, two: Path) -> None:
    shard = one / open_output(one).shards[0]
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(OutputError, match="t5enc fsck"):
        merge_outputs([str(one), str(two)], str(tmp_path / "new"))
    with pytest.raises(UnfinishedError):
        open_output(tmp_path / "new")
