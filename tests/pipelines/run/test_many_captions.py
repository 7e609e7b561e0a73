"""Rows of very different numbers of captions, from files to an output: cut by captions, written in pieces, resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.actors import shard_writer
from pipelines.commands.fsck import check_output
from pipelines.run import resolved_job
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.checks.inspect import print_output
from t5enc.output import open_output
from t5enc.storage.layout import REPORT

pytestmark = pytest.mark.usefixtures("in_process")
COUNTS = [1] * 10 + [7] * 10 + [0, 0, 90, 0, 1, 1]


@pytest.mark.parametrize("tokenizers", [0, 1])
def test_a_file_of_rows_that_differ_is_cut_by_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizers: int
) -> None:
    monkeypatch.setattr(resolved_job, "MOST_CAPTIONS", 14)
    monkeypatch.setattr(shard_writer, "PIECE_BYTES", 4096)
    captions: list[list[str | None]] = [
        [f"bird {row} {index}" for index in range(count)] for row, count in enumerate(COUNTS)
    ]
    pages = [f"page {row} " * 50 for row in range(len(COUNTS))]
    pq.write_table(pa.table({"page": pages, "caption": captions}), tmp_path / "a.parquet", row_group_size=2)
    output = str(tmp_path / "out")
    job = EncodeJob(inputs=[str(tmp_path / "a.parquet")], output=output, model="builtin:tiny", tokenizers=tokenizers)
    assert encode_parquet(job).totals["captions"] == sum(max(1, count) for count in COUNTS)
    rows = [index for index, count in enumerate(COUNTS) for _ in range(max(1, count))]
    table, embeddings = load_embeddings(output)
    assert table["text_embedding_row"].to_pylist() == rows
    assert table["caption"].to_pylist() == [text for texts in captions for text in texts or [None]]
    assert table["page"].to_pylist() == [pages[row] for row in rows]
    assert len(embeddings) == len(rows)
    shards = [pq.read_metadata(tmp_path / "out" / name).num_rows for name in open_output(output).shards]
    assert sorted(shards)[-2] <= 14 < max(shards), "but for the one row that cannot be cut"
    assert check_output(open_store(output), deep=True) == []
    assert encode_parquet(job).spans == 0, "the same units, all of them there"


def test_columns_that_are_named_or_kept_by_default_are_cut_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A struct with bytes in it is left out, so its text counts in neither case; that of the other column does."""
    monkeypatch.setattr(resolved_job, "SHARD_BYTES", 400_000)
    pages = [{"raw": b"1", "html": f"{row} " * 50_000} for row in range(8)]
    table = pa.table({"caption": ["a bird"] * 8, "page": pages, "note": ["n" * 90_000] * 8})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    output = str(tmp_path / "out")
    job = EncodeJob(inputs=[str(tmp_path / "a.parquet")], output=output, model="builtin:tiny", max_length=16)
    assert encode_parquet(job).totals["captions"] == 8
    assert len(open_output(output).shards) == 2
    report = encode_parquet(replace(job, keep_columns=["caption", "note"]))
    assert (report.spans, report.is_finished) == (0, True)


@pytest.mark.parametrize("rows", [None, 7])
def test_what_units_are_cut_by_is_told(tmp_path: Path, rows: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"caption": ["a bird"]}), tmp_path / "a.parquet")
    output = str(tmp_path / "out")
    inputs = [str(tmp_path / "a.parquet")]
    encode_parquet(EncodeJob(inputs=inputs, output=output, model="builtin:tiny", max_length=16, rows_per_shard=rows))
    frozen, told = open_output(output).job, json.loads(open_store(output).read(REPORT))["job"]
    print_output(output, rows=0, partial=False)
    shown = dict(
        line.replace("│", " ").split()[:2] for line in capsys.readouterr().out.splitlines() if "_shard " in line
    )
    names = ["rows_per_shard", "captions_per_shard", "bytes_per_shard"]
    assert {name: told[name] for name in names} == {name: frozen[name] for name in names}
    assert shown == {name: str(frozen[name]) for name in names[: 1 if rows else 3]}
