"""Rows of an output by SQL over their columns, and what SQL must not do."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipelines.commit.records import UnitRecord
from pipelines.derive import committing
from pipelines.derive.merge import merge_outputs
from pipelines.derive.pieces import Piece
from pipelines.derive.select import select_rows
from pipelines.job import FrozenJob
from t5enc.cli import build_app
from t5enc.errors import ConfigError, JobMismatchError, OutputError
from t5enc.output import open_output
from t5enc.storage import PREFIX
from t5enc.storage.layout import SUCCESS
from tests.pipelines.derive.conftest import CAPTIONS, Encode, numbered
from tests.pipelines.derive.rows import BYTES, SOURCE, hash_files, read_rows
from tests.t5enc.dataset.referring.making import refer

WHERE = "n < 15 OR (n > 20 AND caption LIKE '%m%')"
ERROR = f"{PREFIX}error"


def test_whole_shards_are_linked_and_others_have_the_chosen_rows(tmp_path: Path, one: Path) -> None:
    before = hash_files(one)
    done = select_rows(str(one), WHERE, str(tmp_path / "new"))
    wanted = [row for row in read_rows(one) if row["n"] < 15 or (row["n"] > 20 and "m" in (row["caption"] or ""))]
    assert read_rows(tmp_path / "new") == wanted
    assert (done.rows, done.linked, done.rewritten) == (len(wanted), 1, 2)
    assert hash_files(one) == before
    assert select_rows(str(one), WHERE, str(tmp_path / "new")) == done
    with pytest.raises(JobMismatchError, match="n < 15"):
        select_rows(str(one), "n < 16", str(tmp_path / "new"))


def test_shards_without_a_row_are_left_out(tmp_path: Path, one: Path) -> None:
    done = select_rows(str(one), f"{SOURCE} = 'b.parquet'", str(tmp_path / "new"))
    assert (done.rows, done.linked, done.rewritten) == (10, 1, 0)


def test_only_some_kept_columns_may_stay(tmp_path: Path, one: Path) -> None:
    select_rows(str(one), "true", str(tmp_path / "new"), columns=["caption"])
    wanted = [{name: value for name, value in row.items() if name != "n"} for row in read_rows(one)]
    assert read_rows(tmp_path / "new") == wanted
    with pytest.raises(ConfigError, match="columns: expected some of caption, n, got 'm'"):
        select_rows(str(one), "true", str(tmp_path / "other"), columns=["m"])


def test_rows_without_an_embedding_can_be_left_out(tmp_path: Path, one: Path) -> None:
    select_rows(str(one), f"{ERROR} IS NULL", str(tmp_path / "new"))
    assert read_rows(tmp_path / "new") == [row for row in read_rows(one) if row[BYTES] is not None]


def test_rows_that_refer_get_their_embeddings(tmp_path: Path, encode: Encode) -> None:
    plain = encode("plain", {"a": numbered([*CAPTIONS[:20], *CAPTIONS[5:15]])})
    expected = [row[BYTES] for row in read_rows(plain) if row["n"] % 2]
    assert refer(plain)
    select_rows(str(plain), "n % 2 = 1", str(tmp_path / "new"))
    assert [row[BYTES] for row in read_rows(tmp_path / "new")] == expected


def test_parts_of_an_output_are_put_together_again(tmp_path: Path, one: Path) -> None:
    for name, where in (("low", "n < 12"), ("high", "n >= 12")):
        select_rows(str(one), where, str(tmp_path / name))
    merge_outputs([str(tmp_path / "low"), str(tmp_path / "high")], str(tmp_path / "new"))
    found = sorted(read_rows(tmp_path / "new"), key=lambda row: row["n"])
    wanted = sorted(read_rows(one), key=lambda row: row["n"])
    assert [row[BYTES] for row in found] == [row[BYTES] for row in wanted]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("m < 3", 'column "m" not found.* columns are caption, n, '),
        ("n < ", "syntax error"),
        ("n < 3) AS BOOLEAN); SELECT CAST((true", "expected one condition, got 2 statements"),
        ("sum(n) > 3", "WHERE clause cannot contain aggregates"),
        ("row_number() OVER (PARTITION BY caption ORDER BY n) = 1", "WHERE clause cannot contain window functions"),
        ("lag(n) OVER (ORDER BY caption) IS NULL", "WHERE clause cannot contain window functions"),
        ("n = (SELECT max(n) FROM rows)", "Table with name rows does not exist"),
        ("unnest([n < 3, n > 5])", "UNNEST not supported"),
        ("n IN (SELECT a FROM read_csv('/etc/passwd'))", "."),
        ("n IN (SELECT a FROM '/etc/passwd')", "."),
        ("n < -5", "expected at least one row"),
        ("caption", "."),
    ],
)
def test_what_is_no_condition_is_told_and_nothing_written(tmp_path: Path, one: Path, where: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"where: .*{said}"):
        select_rows(str(one), where, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_what_is_neither_true_nor_false_is_left_out(tmp_path: Path, one: Path) -> None:
    select_rows(str(one), "CASE WHEN n < 3 THEN true WHEN n < 20 THEN NULL ELSE false END", str(tmp_path / "new"))
    assert [row["n"] for row in read_rows(tmp_path / "new")] == [0, 1, 2]


def test_columns_that_sql_cannot_name_stay_and_are_told(tmp_path: Path, encode: Encode) -> None:
    halves = pa.array([np.full(2, n, np.float16) for n in range(10)], pa.list_(pa.float16()))
    table = numbered(CAPTIONS[:10]).append_column("half", halves).append_column("N", pa.array(range(10, 0, -1)))
    odd = encode("odd", {"a": table.append_column("k", pa.array(range(10)))})
    select_rows(str(odd), "k < 3", str(tmp_path / "new"))
    found = read_rows(tmp_path / "new")
    assert [(row["half"], row["n"], row["N"]) for row in found] == [([n, n], n, 10 - n) for n in range(3)]
    for where in ("half[1] < 3", "n < 3", '"N" < 3'):
        with pytest.raises(ConfigError, match=r"not found.*columns are caption, k, .*; not for SQL are n, half, N$"):
            select_rows(str(odd), where, str(tmp_path / "other"))


def test_without_duckdb_the_extra_is_named(tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigError, match=r"where: needs DuckDB, .*t5enc\[data\]"):
        select_rows(str(one), "n < 3", str(tmp_path / "new"))


@pytest.mark.parametrize("is_relative", [False, True])
def test_shards_that_are_symbolic_links_are_followed(tmp_path: Path, one: Path, is_relative: bool) -> None:
    expected = read_rows(one)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, name in enumerate(open_output(one).shards):
        blob = (one / name).rename(blobs / str(number))
        (one / name).symlink_to(os.path.relpath(blob, (one / name).parent) if is_relative else blob)
    new = tmp_path / "far" / "away" / "new"
    done = select_rows(str(one), "true", str(new))
    assert (done.linked, done.written) == (3, 0)
    assert select_rows(str(one), "true", str(new)) == done
    shutil.rmtree(blobs)
    assert read_rows(new) == expected


def test_a_link_that_leads_to_nothing_is_no_shard(tmp_path: Path, one: Path) -> None:
    name = open_output(one).shards[0]
    (tmp_path / "new" / name).parent.mkdir(parents=True)
    (tmp_path / "new" / name).symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="got a link that leads to nothing"):
        select_rows(str(one), "true", str(tmp_path / "new"))


def test_a_condition_that_chooses_other_rows_each_time_is_told(tmp_path: Path, one: Path) -> None:
    select_rows(str(one), "random() < 0.5", str(tmp_path / "new"))
    files = hash_files(tmp_path / "new")
    with pytest.raises(OutputError, match=r"chose another time: random\(\) < 0.5"):
        select_rows(str(one), "random() < 0.5", str(tmp_path / "new"))
    assert hash_files(tmp_path / "new") == files
    (tmp_path / "new" / SUCCESS).unlink()
    with pytest.raises(OutputError, match=r"random\(\) < 0.5 must choose the same whenever it is run"):
        select_rows(str(one), "random() < 0.5", str(tmp_path / "new"))


def test_without_a_condition_all_rows_are_taken(tmp_path: Path, one: Path) -> None:
    done = CliRunner().invoke(build_app(), ["select", str(one), "--columns", "caption", "-o", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    wanted = [{name: value for name, value in row.items() if name != "n"} for row in read_rows(one)]
    assert read_rows(tmp_path / "new") == wanted


def test_a_shard_that_holds_the_rows_of_another_is_refused(
    tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, early, late = open_output(one).shards
    real = committing.rewrite

    def rewrite_replaced(piece: Piece, job: FrozenJob) -> tuple[UnitRecord, Any]:
        (one / early).write_bytes((one / late).read_bytes())
        return real(piece, job)

    monkeypatch.setattr(committing, "rewrite", rewrite_replaced)
    with pytest.raises(OutputError, match=f"{early}: expected the shard of its manifest"):
        select_rows(str(one), "n < 10 AND n % 2 = 0", str(tmp_path / "new"))
    monkeypatch.undo()
    with pytest.raises(OutputError, match=f"{early}: expected the shard of its manifest"):
        select_rows(str(one), "n < 10 AND n % 2 = 0", str(tmp_path / "other"))


def test_a_message_about_a_damaged_shard_is_one_line(tmp_path: Path, one: Path) -> None:
    shard = one / open_output(one).shards[0]
    shard.write_bytes(b"no Parquet" * 10)
    with pytest.raises(OutputError, match=r"expected a Parquet shard, got: [^\n]*$"):
        select_rows(str(one), "n < 3", str(tmp_path / "new"))


def test_the_commands_say_what_they_made(tmp_path: Path, one: Path, two: Path) -> None:
    done = CliRunner().invoke(build_app(), ["merge", str(one), str(two), "-o", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert "train-0.parquet is two/train-0.parquet now" in done.stdout
    assert "58 rows" in done.stdout
    assert "shards: 3 linked, 2 rewritten" in done.stdout
    done = CliRunner().invoke(build_app(), ["select", str(one), "--where", "n < 3", "-o", str(tmp_path / "few")])
    assert "3 rows" in done.stdout
