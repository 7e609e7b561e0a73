"""Stores that fail for a while, bits that turn, damaged indexes: what can be had is, and what cannot is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.reuse import building, copying
from pipelines.reuse.rests import MOST_FAILURES, REST_SECONDS, Rests
from t5enc.errors import OutputError
from tests.pipelines.reuse.jobs import CAPTIONS, encode, list_shards, write
from tests.pipelines.same_rows import assert_equal_outputs

pytestmark = pytest.mark.usefixtures("in_process")


def fail_first(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, times: int) -> None:
    """Have the first calls of a function fail as those of a store do."""
    real, calls = getattr(module, name), [0]

    def fail(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] <= times:
            raise OSError("503 Slow Down")
        return real(*arguments)

    monkeypatch.setattr(module, name, fail)


def stop_clock(monkeypatch: pytest.MonkeyPatch, module: str) -> list[float]:
    """Seconds that were slept, on a clock that nothing else moves."""
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept))
    monkeypatch.setattr(f"pipelines.reuse.{module}.time", clock)
    return slept


def list_indexes(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_a_shard_that_a_store_does_not_give_at_first_is_read_again(
    captions: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = stop_clock(monkeypatch, "building")
    fail_first(monkeypatch, building, "open_shard", 3)
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert report.totals["reused"] == len(CAPTIONS)
    assert not report.not_reused
    assert 0 < len(slept) <= 3
    assert len(list_indexes(cache)) == 1


def test_an_index_that_lacks_what_a_store_did_not_give_is_told_and_not_kept(
    captions: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_clock(monkeypatch, "building")
    with monkeypatch.context() as patch:
        fail_first(patch, building, "open_shard", 10**6)
        report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert report.totals["reused"] == 0
    assert f"not reused: {tmp_path / 'old'}: 6 of 6 shards cannot be read" in str(report)
    assert list_indexes(cache) == []
    assert encode(captions, tmp_path / "other", tmp_path / "old").totals["reused"] == len(CAPTIONS)
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")


@pytest.mark.parametrize("place", [-8, -100, -2000])
def test_a_shard_whose_footer_is_damaged_is_not_waited_for(
    place: int, captions: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = stop_clock(monkeypatch, "building")
    shard = list_shards(tmp_path / "old")[1]
    data = bytearray(shard.read_bytes())
    end = int.from_bytes(data[-8:-4], "little") + 8
    data[-end : -end + 40] = bytes(40)
    data[place : place + 4] = b"\xff\xff\xff\xff"
    shard.write_bytes(data)
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert slept == []
    assert report.totals["reused"] == len(CAPTIONS) - 30
    assert "1 of 6 shards cannot be read" in str(report)
    assert len(list_indexes(cache)) == 1
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")


@pytest.mark.long
def test_a_store_that_fails_for_a_while_is_asked_again_after_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = write(tmp_path / "in", CAPTIONS)
    encode(captions, tmp_path / "old", rows_per_shard=1)
    slept = stop_clock(monkeypatch, "rests")
    fail_first(monkeypatch, copying, "read_values", MOST_FAILURES)
    copy = copying.EarlierRows.copy

    def wait_and_copy(*arguments: Any) -> Any:
        slept.append(REST_SECONDS / 2 + 1)
        return copy(*arguments)

    monkeypatch.setattr(copying.EarlierRows, "copy", wait_and_copy)
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert report.totals["reused"] >= len(CAPTIONS) - 3 * 30


def test_what_is_gone_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = stop_clock(monkeypatch, "rests")
    rests = Rests()
    rests.note_failure(1, is_gone=True)
    rests.note_failure(2, is_gone=False)
    assert [rests.is_resting(shard) for shard in (None, 1, 2, 3)] == [False, True, True, False]
    for _ in range(MOST_FAILURES):
        rests.note_failure(4, is_gone=False)
    assert rests.is_resting()
    slept.append(REST_SECONDS)
    assert [rests.is_resting(shard) for shard in (None, 1, 2, 3, 4)] == [False, True, False, False, False]


@pytest.mark.parametrize("storage", ["float16", "fp16z", "float32"])
def test_a_bit_that_has_turned_is_not_copied(storage: str, captions: Path, tmp_path: Path) -> None:
    encode(captions, tmp_path / "rotten", storage_dtype=storage)
    shard = list_shards(tmp_path / "rotten")[2]
    data = bytearray(shard.read_bytes())
    data[data.find(pq.read_table(shard)["text_embedding_bytes"][3].as_py()) + 7] ^= 8
    shard.write_bytes(data)
    report = encode(captions, tmp_path / "new", tmp_path / "rotten")
    assert report.totals["reused"] == len(CAPTIONS) - 1
    assert "row 3: other bytes than were written there" in str(report)
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")


def test_rows_of_shards_without_checksums_are_copied(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("t5enc.storage.row_index.BYTES", "no such column")
        encode(captions, tmp_path / "without")
    report = encode(captions, tmp_path / "new", tmp_path / "without")
    assert report.totals["reused"] == len(CAPTIONS)
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")


@pytest.mark.parametrize("name", ["000.keys", "rows", "note.json"])
def test_a_damaged_index_ends_no_job(name: str, captions: Path, tmp_path: Path, cache: Path) -> None:
    encode(captions, tmp_path / "first", tmp_path / "old")
    (index,) = list_indexes(cache)
    (index / name).write_bytes(b"")
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert report.totals["reused"] == len(CAPTIONS)
    assert not report.not_reused


def test_an_output_that_cannot_be_listed_is_an_error_at_first_and_a_note_later(captions: Path, tmp_path: Path) -> None:
    data = tmp_path / "old" / "data"
    data.rename(tmp_path / "old" / "elsewhere")
    data.write_text("no folder")
    with pytest.raises(OutputError, match="old: its shards cannot be listed"):
        encode(captions, tmp_path / "new", tmp_path / "old")
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    assert f"not reused: {tmp_path / 'old'}: its shards cannot be listed" in str(report)
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")


def test_what_an_earlier_output_put_aside_is_taken_too(captions: Path, tmp_path: Path) -> None:
    shards = list_shards(tmp_path / "old")
    stale = tmp_path / "old" / "_t5enc" / "stale"
    stale.mkdir()
    for shard in shards[:3]:
        shard.rename(stale / shard.name)
    assert encode(captions, tmp_path / "new", tmp_path / "old").totals["reused"] == len(CAPTIONS)
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")


def test_what_goes_wrong_is_told_by_the_name_of_its_output(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index = copying.open_key_index

    def fill_disk(output: Any, *arguments: Any) -> Any:
        if output.root.endswith("fresh"):
            raise OSError("No space left on device")
        return open_index(output, *arguments)

    monkeypatch.setattr(copying, "open_key_index", fill_disk)
    encode(captions, tmp_path / "new", tmp_path / "fresh", tmp_path / "old")
    report = encode(captions, tmp_path / "other", tmp_path / "fresh", tmp_path / "old")
    told = f"{tmp_path / 'fresh'}: no index of its keys can be made"
    assert f"not reused: {told}" in str(report)
    assert f"Not reused: {told}" in (tmp_path / "other" / "report.html").read_text()


def test_captions_of_outputs_of_the_same_name_add_up(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(write(tmp_path / "half", CAPTIONS[:45]), tmp_path / "one")
    monkeypatch.setattr("pipelines.reuse.earlier.hide_credentials", lambda _: "somewhere")
    report = encode(captions, tmp_path / "new", tmp_path / "one", tmp_path / "old")
    assert report.details.findings.reused == {"somewhere": len(CAPTIONS)}
    assert report.details.findings.reused_tokens == report.totals["reused_tokens"]


def test_what_a_job_copies_of_its_own_is_not_called_reused(tmp_path: Path) -> None:
    captions = write(tmp_path / "in", CAPTIONS[:60], CAPTIONS[:60])
    report = encode(captions, tmp_path / "new", dedup="job", rows_per_shard=60)
    assert report.totals["reused"] == 120
    assert (report.captions_reused, report.details.findings.reused_tokens, report.seconds_saved) == (0, 0, 0)
    assert "copied, not computed" not in str(report)
    assert "equal captions: 120 of 120" in str(report)
