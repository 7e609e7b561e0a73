"""Rows of an output by SQL over their columns, and what SQL must not do."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.derive.merge import merge_outputs
from pipelines.derive.select import select_rows
from t5enc.cli import build_app
from t5enc.errors import ConfigError, JobMismatchError
from t5enc.storage import PREFIX
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
        ("n < 3) AS BOOLEAN), true) FROM rows; SELECT coalesce(CAST((true", "expected one condition, got 2 statements"),
        ("sum(n) > 3", "."),
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


def test_the_commands_say_what_they_made(tmp_path: Path, one: Path, two: Path) -> None:
    done = CliRunner().invoke(build_app(), ["merge", str(one), str(two), "-o", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert "train-0.parquet is two/train-0.parquet now" in done.stdout
    assert "58 rows" in done.stdout
    assert "shards: 3 linked, 2 rewritten" in done.stdout
    done = CliRunner().invoke(build_app(), ["select", str(one), "--where", "n < 3", "-o", str(tmp_path / "few")])
    assert "3 rows" in done.stdout
