"""Earlier outputs that vanish, change or are damaged while they are read: every row is right all the same."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.reuse import copying
from pipelines.reuse.earlier import EarlierOutput
from t5enc.errors import OutputError
from t5enc.storage import KEY
from tests.pipelines.reuse.jobs import CAPTIONS, encode, list_shards
from tests.pipelines.same_rows import assert_equal_outputs

pytestmark = pytest.mark.usefixtures("in_process")


def before_read(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something before the rows of a shard are read, for the `number`th time."""
    read, calls = copying.read_values, [0]

    def read_values(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            act()
        return read(*arguments)

    monkeypatch.setattr(copying, "read_values", read_values)


@pytest.mark.parametrize("number", [1, 3])
def test_an_output_that_vanishes_half_way_is_computed(
    number: int, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_read(monkeypatch, number, lambda: shutil.rmtree(tmp_path / "old"))
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert 0 < report.totals["reused"] < len(CAPTIONS)
    assert "not all of it can be read, and what is not is computed" in str(report)


def test_an_output_that_vanishes_before_its_keys_are_read_is_computed(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index = copying.open_key_index

    def remove_first(*arguments: Any) -> Any:
        shutil.rmtree(tmp_path / "old")
        return open_index(*arguments)

    monkeypatch.setattr(copying, "open_key_index", remove_first)
    assert encode(captions, tmp_path / "new", tmp_path / "old").totals["reused"] == 0
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")


@pytest.mark.parametrize("kept", [0, 100, -1000, -8])
def test_a_torn_shard_is_computed(kept: int, captions: Path, tmp_path: Path) -> None:
    torn = list_shards(tmp_path / "old")[1]
    torn.write_bytes(torn.read_bytes()[:kept])
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.totals["reused"] == len(CAPTIONS) - 30


def test_a_shard_that_is_torn_while_it_is_read_is_computed(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = list_shards(tmp_path / "old")
    before_read(monkeypatch, 2, lambda: shards[1].write_bytes(shards[1].read_bytes()[:5000]))
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.totals["reused"] == len(CAPTIONS) - 30


def reverse(table: pa.Table) -> pa.Table:
    return table.take(list(range(len(table)))[::-1])


def swap_two(table: pa.Table) -> pa.Table:
    return table.take([1, 0, *range(2, len(table))])


def drop_half(table: pa.Table) -> pa.Table:
    return table.slice(15)


def forget_keys(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index(KEY.name), KEY, pa.nulls(len(table), KEY.type))


@pytest.mark.parametrize("change", [reverse, swap_two, drop_half, forget_keys])
def test_an_index_of_what_was_there_before_misleads_nobody(
    change: Callable[[pa.Table], pa.Table], captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EarlierOutput, "digest", lambda _: "the same all the time")
    encode(captions, tmp_path / "first", tmp_path / "old")
    for shard in list_shards(tmp_path / "old"):
        table = change(pq.read_table(shard))
        pq.write_table(table, shard, compression={}, use_dictionary=False)
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.totals["reused"] < len(CAPTIONS)


def test_shards_that_change_places_mislead_nobody(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EarlierOutput, "digest", lambda _: "the same all the time")
    encode(captions, tmp_path / "first", tmp_path / "old")
    one, other = list_shards(tmp_path / "old")[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.totals["reused"] == len(CAPTIONS) - 60


def test_a_full_disk_means_that_nothing_is_reused_and_is_told_once(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fill_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipelines.reuse.building.build_index", fill_disk)
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.totals["reused"] == 0
    assert str(report).count("No space left on device") == 1
    assert capfd.readouterr().err.count("No space left on device") == 1


@pytest.mark.parametrize("commits", range(5))
def test_a_job_that_was_stopped_resumes_with_or_without_its_earlier_output(
    commits: int, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.actors import worker

    done = []
    commit = worker.commit_shard

    def stop(*arguments: Any) -> Any:
        if len(done) == commits:
            raise OutputError("stopped")
        done.append(arguments)
        return commit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "commit_shard", stop)
        with pytest.raises(OutputError, match="stopped"):
            encode(captions, tmp_path / "new", tmp_path / "old")
    if commits % 2:
        shutil.rmtree(tmp_path / "old")
    encode(captions, tmp_path / "new", tmp_path / "old")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
