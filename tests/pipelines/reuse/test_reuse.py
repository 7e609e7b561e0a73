"""A job that takes embeddings from earlier outputs: the same rows, bit for bit, that a fresh one computes."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.reuse.earlier import is_good_enough
from t5enc.storage import CODECS
from tests.pipelines.reuse.jobs import CAPTIONS, encode, list_shards, write
from tests.pipelines.same_rows import assert_equal_outputs

pytestmark = pytest.mark.usefixtures("in_process")
WRITTEN = [name for name in CODECS if name != "int8"]  # a new output's int8 is int8g32
PAIRS = [(old, new) for old in WRITTEN for new in WRITTEN if is_good_enough(old, new)]


def test_what_an_earlier_output_has_is_copied(tmp_path: Path) -> None:
    old = write(tmp_path / "old_in", CAPTIONS)
    new = write(tmp_path / "new_in", ["a new caption", None, *CAPTIONS[::-1]], CAPTIONS[5:20])
    encode(old, tmp_path / "old")
    encode(new, tmp_path / "fresh")
    report = encode(new, tmp_path / "new", tmp_path / "old")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.totals["reused"] == len(CAPTIONS) + 15
    assert report.details.findings.reused == {str(tmp_path / "old"): len(CAPTIONS) + 15}
    assert f"copied, not computed: {len(CAPTIONS) + 15} captions, " in str(report)
    assert "Copied in this run and not computed" in (tmp_path / "new" / "report.html").read_text()


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_every_codec_that_is_good_enough_gives_the_bytes_of_a_fresh_job(old: str, new: str, tmp_path: Path) -> None:
    captions = write(tmp_path / "in", CAPTIONS[:10])
    encode(captions, tmp_path / "old", storage_dtype=old)
    encode(captions, tmp_path / "fresh", storage_dtype=new)
    report = encode(captions, tmp_path / "new", tmp_path / "old", storage_dtype=new)
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.progress.cost.useful_tokens == 0


def test_one_edit_in_a_hundred_computes_no_more_than_that(tmp_path: Path) -> None:
    captions = [f"{caption} {n}" for n in range(5) for caption in CAPTIONS]
    edited = [f"{caption[:-1]}x" if n % 100 == 0 else caption for n, caption in enumerate(captions)]
    encode(write(tmp_path / "old_in", captions), tmp_path / "old", rows_per_shard=200)
    new = write(tmp_path / "new_in", edited)
    report = encode(new, tmp_path / "new", tmp_path / "old", rows_per_shard=200)
    encode(new, tmp_path / "fresh", rows_per_shard=200)
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.progress.cost.useful_tokens <= 0.011 * report.totals["tokens"]


def test_rows_that_moved_to_other_files_are_not_computed(tmp_path: Path) -> None:
    encode(write(tmp_path / "old_in", CAPTIONS[:80], CAPTIONS[80:]), tmp_path / "old")
    new = write(tmp_path / "new_in", CAPTIONS[::3], CAPTIONS[1::3], CAPTIONS[2::3])
    report = encode(new, tmp_path / "new", tmp_path / "old", tokenizers=1)
    assert report.progress.cost.useful_tokens == 0
    encode(new, tmp_path / "fresh")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")


def test_two_outputs_are_asked_one_after_the_other_and_one_may_be_unfinished(tmp_path: Path) -> None:
    encode(write(tmp_path / "first_in", CAPTIONS[:90]), tmp_path / "first")
    encode(write(tmp_path / "second_in", CAPTIONS[60:]), tmp_path / "second", storage_dtype="float32")
    (tmp_path / "first" / "_SUCCESS").unlink()
    list_shards(tmp_path / "first")[0].unlink()
    new = write(tmp_path / "new_in", CAPTIONS)
    report = encode(new, tmp_path / "new", tmp_path / "first", tmp_path / "second")
    encode(new, tmp_path / "fresh")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.details.findings.reused == {str(tmp_path / "first"): 60, str(tmp_path / "second"): 70}
    assert report.totals["captions"] - report.totals["reused"] == 30


def test_an_output_is_its_own_earlier_one_with_what_was_put_aside(tmp_path: Path) -> None:
    captions = write(tmp_path / "in", CAPTIONS)
    encode(captions, tmp_path / "out")
    (tmp_path / "in" / "0.parquet").unlink()
    (tmp_path / "in").rmdir()
    write(tmp_path / "in", [*CAPTIONS[40:], "a new caption"])
    report = encode(captions, tmp_path / "out", tmp_path / "out", replace=True)
    assert report.totals["reused"] == len(CAPTIONS) - 40
    encode(captions, tmp_path / "fresh")
    assert_equal_outputs(tmp_path / "out", tmp_path / "fresh")


def test_another_recipe_reuses_the_captions_that_have_the_same_tokens(tmp_path: Path) -> None:
    captions = write(tmp_path / "in", ["short", "a caption that is rather longer than eight tokens, I should say"])
    encode(captions, tmp_path / "old", max_length=512)
    report = encode(captions, tmp_path / "new", tmp_path / "old", max_length=8)
    encode(captions, tmp_path / "fresh", max_length=8)
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.totals["reused"] == 1


def test_a_shard_that_was_written_again_serves_by_its_columns(tmp_path: Path) -> None:
    captions = write(tmp_path / "in", CAPTIONS)
    encode(captions, tmp_path / "old")
    for shard in list_shards(tmp_path / "old"):
        table = pq.read_table(shard)
        pq.write_table(table.take(list(range(len(table)))[::-1]), shard, compression="zstd", data_page_size=1000)
    report = encode(captions, tmp_path / "new", tmp_path / "old")
    encode(captions, tmp_path / "fresh")
    assert_equal_outputs(tmp_path / "new", tmp_path / "fresh")
    assert report.totals["reused"] == len(CAPTIONS)
