"""Three of ten captions come again in other files: what need not be computed, and what need not be stored."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipelines import encode_parquet
from pipelines.progress.report import EncodeReport
from t5enc.checkpoint.builtin import sample_captions
from tests.pipelines.dedup.jobs import assert_as_plain, make_job, write_files

pytestmark = pytest.mark.usefixtures("in_process")
FILES, ROWS, REPEATED = 4, 40, 0.3
# Of 30 % that come again at least 29 % are saved.
MOST = 0.71


def make_captions() -> dict[str, list[str]]:
    """Long ones of about the same length, those that come again spread over all files."""
    drawn = random.Random(14)
    pieces = sample_captions()
    count = FILES * ROWS
    distinct = [" ".join(drawn.sample(pieces, 8)) for _ in range(round(count * (1 - REPEATED)))]
    texts = distinct + drawn.sample(distinct, count - len(distinct))
    drawn.shuffle(texts)
    return {f"part-{part}": texts[part * ROWS : (part + 1) * ROWS] for part in range(FILES)}


def count_computed(report: EncodeReport) -> int:
    return report.progress.cost.useful_tokens + int(report.dedup.get("useful_tokens", 0))


def count_bytes(output: Path) -> int:
    return sum(path.stat().st_size for path in output.rglob("*.parquet"))


def test_what_comes_again_is_neither_computed_nor_stored(tmp_path: Path) -> None:
    inputs = write_files(tmp_path / "in", make_captions())
    options = {"rows_per_shard": ROWS, "keep_columns": []}
    plain = encode_parquet(make_job(inputs, tmp_path / "plain", **options))
    for duplicates in ("copied", "referenced"):
        output = tmp_path / duplicates
        report = encode_parquet(make_job(inputs, output, **options, dedup="job", duplicates=duplicates))
        assert_as_plain(output, tmp_path / "plain")
        assert report.totals["tokens"] == plain.totals["tokens"]
        assert count_computed(report) <= MOST * plain.totals["tokens"]
        assert f"the {report.dedup['distinct']} distinct ones of them were encoded first" in str(report)
    assert count_bytes(tmp_path / "referenced") <= MOST * count_bytes(tmp_path / "plain")
    assert f"stored once, in shared/, {report.dedup['size'] / 1e6:,.1f} MB" in str(report)
