"""A column of captions that holds no text: told before work, with what it holds and what would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pipelines.inputs.columns.text_column import check_captions, unite_text
from t5enc.errors import SourceError
from tests.pipelines.inputs.columns.kept_rows import write_files

CHATS = [[{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a red bird"}]]


def told(folder: Path, column: str, *tables: dict[str, Any]) -> str:
    found = write_files(folder, *tables)
    with pytest.raises(SourceError) as caught:
        check_captions(pafs.LocalFileSystem(), found.survey.schemas, column)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "got"),
    [
        (CHATS, "got list<item: struct<from: string, value: string>>, such as [{'from': 'human'"),
        ([{"en": "a bird"}], "got struct<en: string>, such as {'en': 'a bird'}"),
        ([7], "got int64, such as 7"),
        ([None, 2.5], "got double, such as 2.5"),
        ([True], "got bool, such as True"),
        ([[1, 2]], "got list<item: int64>, such as [1, 2]"),
    ],
    ids=str,
)
def test_what_a_column_holds_is_told_with_an_example(tmp_path: Path, values: list[Any], got: str) -> None:
    reason = told(tmp_path, "x", {"x": values, "tags": [["a"]] * len(values), "n": [1] * len(values)})
    assert reason.startswith("0.parquet: column 'x': expected text, or a list of texts, in each row, " + got)
    assert reason.endswith("not text. Columns of text: caption, tags (--text-column)")


def test_one_file_of_many_is_enough_and_says_how_many_more(tmp_path: Path) -> None:
    good, bad = {"x": ["a"]}, {"x": [1]}
    assert told(tmp_path, "x", good, bad, good, bad, bad).startswith("1.parquet and 2 more files: column 'x'")


def test_lists_and_structs_without_another_column_of_text_say_what_would_do(tmp_path: Path) -> None:
    tables = [pa.table({"chat": CHATS}), pa.table({"number": [1]})]
    ends = ("one string, or a list of strings, in each row", "No other column holds text")
    for table, end in zip(tables, ends, strict=True):
        found = write_files(tmp_path / table.column_names[0], table)
        with pytest.raises(SourceError, match=end):
            check_captions(pafs.LocalFileSystem(), found.survey.schemas, table.column_names[0])


def test_nulls_empty_lists_and_bytes_are_no_wrong_type(tmp_path: Path) -> None:
    columns: list[Any] = [pa.nulls(1), [[]], [b"a"], [["a"]], [""], pa.array(["a"]).dictionary_encode()]
    found = write_files(tmp_path, *({"x": column} for column in columns))
    check_captions(pafs.LocalFileSystem(), found.survey.schemas, "x")


@pytest.mark.parametrize(
    ("types", "kept"),
    [
        ([pa.string(), pa.string()], pa.string()),
        ([pa.null(), pa.large_string()], pa.large_string()),
        ([pa.list_(pa.string()), pa.string()], pa.string()),
        ([pa.string(), pa.large_string()], pa.large_string()),
        ([pa.binary(), pa.large_binary()], pa.large_binary()),
        ([pa.binary(), pa.string()], pa.string()),
        ([pa.binary(), pa.list_(pa.string()), pa.large_string()], pa.large_string()),
    ],
    ids=str,
)
def test_captions_of_several_kinds_are_kept_as_text(types: list[pa.DataType], kept: pa.DataType) -> None:
    assert unite_text(types) == unite_text(types[::-1]) == kept
