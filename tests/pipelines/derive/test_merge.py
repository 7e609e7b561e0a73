"""Outputs put together: the rows of all, bit for bit, and links where nothing in a shard changes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob
from pipelines.derive.committing import Derived
from pipelines.derive.merge import merge_outputs
from pipelines.derive.select import select_rows
from t5enc import load_embeddings
from t5enc.checkpoint.builtin import write_builtin
from t5enc.dataset import EmbeddingDataset
from t5enc.errors import ConfigError, JobMismatchError, OutputError, UnfinishedError
from t5enc.output import open_output
from t5enc.storage import KEY, PREFIX
from t5enc.storage.layout import ASKED, JOB, SUCCESS
from tests.pipelines.derive.conftest import CAPTIONS, Encode, numbered
from tests.pipelines.derive.rows import SOURCE, hash_files, read_rows
from tests.pipelines.in_process import encode_in_process
from tests.t5enc.dataset.referring.making import refer


def merge(*outputs: Path | str, output: Path) -> Derived:
    return merge_outputs([str(one) for one in outputs], str(output)).derived


def test_shards_that_are_alike_are_links_and_nothing_is_written(tmp_path: Path, one: Path, encode: Encode) -> None:
    other = encode("other", {"y": numbered(CAPTIONS[:20])})
    before = hash_files(one), hash_files(other)
    done = merge(one, other, output=tmp_path / "new")
    assert (done.rows, done.linked, done.copied, done.rewritten, done.written) == (60, 5, 0, 0, 0)
    for origin in (one, other):
        for name in open_output(origin).shards:
            assert (origin / name).samefile(tmp_path / "new" / name)
    assert read_rows(tmp_path / "new") == read_rows(one) + read_rows(other)
    assert (hash_files(one), hash_files(other)) == before


def test_columns_are_united_and_sources_of_one_name_are_told_apart(tmp_path: Path, one: Path, two: Path) -> None:
    before = hash_files(one), hash_files(two)
    merged = merge_outputs([str(one), str(two)], str(tmp_path / "new"))
    assert merged.renamed == {str(one): {}, str(two): {"train-0.parquet": "two/train-0.parquet"}}
    assert (merged.derived.linked, merged.derived.rewritten) == (3, 2)
    theirs = [{"caption": row["caption"], "n": None} | row for row in read_rows(two)]
    for row in theirs:
        row[SOURCE] = row[SOURCE].replace("train-0", "two/train-0")
    found = read_rows(tmp_path / "new")
    assert sorted(found, key=repr) == sorted(read_rows(one) + theirs, key=repr)
    assert [row for row in found if row["n"] is not None] == read_rows(one)
    assert len({str(pq.read_schema(path).remove_metadata()) for path in (tmp_path / "new").rglob("*.parquet")}) == 1
    assert (hash_files(one), hash_files(two)) == before


def test_readers_open_what_was_merged(tmp_path: Path, one: Path, two: Path) -> None:
    merge(one, f"second={two}", output=tmp_path / "new")
    table, embeddings = load_embeddings(tmp_path / "new")
    assert len(table) == len(embeddings) == 58
    assert "second/train-0.parquet" in table[SOURCE].to_pylist()
    dataset = EmbeddingDataset(tmp_path / "new")
    assert len(dataset) == 57


@pytest.mark.parametrize("storage", ["float16", "int8g32", "bf16z"])
def test_rows_that_refer_get_their_embeddings(tmp_path: Path, encode: Encode, storage: str) -> None:
    plain = encode("plain", {"a": numbered([*CAPTIONS[:20], *CAPTIONS[5:15]])}, storage_dtype=storage)
    other = encode("other", {"z": numbered(CAPTIONS[:9])}, storage_dtype=storage)
    expected = read_rows(plain) + read_rows(other)
    assert refer(plain)
    done = merge(plain, other, output=tmp_path / "new")
    assert (done.linked, done.rewritten) == (1, 2)
    assert read_rows(tmp_path / "new") == expected


def test_without_links_shards_are_copied(
    tmp_path: Path, one: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "another disk")

    other = encode("other", {"y": numbered(CAPTIONS[:20])})
    monkeypatch.setattr(os, "link", refuse)
    done = merge(one, other, output=tmp_path / "new")
    assert (done.linked, done.copied, done.written) == (0, 5, done.size)
    assert read_rows(tmp_path / "new") == read_rows(one) + read_rows(other)


@pytest.mark.parametrize("options", [{"storage_dtype": "bfloat16"}, {"max_length": 64}, {"model": "builtin:tiny-umt5"}])
def test_outputs_of_other_jobs_are_refused_by_name(
    tmp_path: Path, one: Path, encode: Encode, options: dict[str, Any]
) -> None:
    other = encode("other", {"y": numbered(CAPTIONS[:3])}, **options)
    with pytest.raises(JobMismatchError, match=f"(?s){other}: expected embeddings like those of {one}.* got ") as error:
        merge(one, other, output=tmp_path / "new")
    assert {"storage_dtype", "max_length", "weights"} & error.value.differences.keys()
    assert not (tmp_path / "new").exists()


def test_the_same_rows_are_refused(tmp_path: Path, one: Path, encode: Encode) -> None:
    with pytest.raises(ConfigError, match="expected each output once"):
        merge(one, one, output=tmp_path / "new")
    again = encode("again", {"train-0": numbered(["another", *CAPTIONS[1:3]])})
    with pytest.raises(ConfigError, match=r"'train-0\.parquet', row 1, caption 0"):
        merge(one, again, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    merge(one, f"more={again}", output=tmp_path / "new")


def test_an_unfinished_output_is_refused(tmp_path: Path, one: Path, two: Path) -> None:
    (two / SUCCESS).unlink()
    with pytest.raises(UnfinishedError, match=str(two)):
        merge(one, two, output=tmp_path / "new")


def test_columns_without_a_type_for_all_are_refused(tmp_path: Path, one: Path, encode: Encode) -> None:
    other = encode("other", {"y": pa.table({"caption": CAPTIONS[:3], "n": ["a", "b", "c"]})})
    with pytest.raises(ConfigError, match=r"column 'n': expected a type .* int32 in .*one, string in .*other"):
        merge(one, other, output=tmp_path / "new")


def test_a_merged_output_is_no_other_commands(tmp_path: Path, one: Path, two: Path, encode: Encode) -> None:
    merge(one, two, output=tmp_path / "new")
    files = hash_files(tmp_path / "new")
    with pytest.raises(
        JobMismatchError, match=r"names of sources: there .*two/train-0.*, here .*x/train-0[^\n]*$"
    ) as told:
        merge(one, f"x={two}", output=tmp_path / "new")
    assert "--overwrite" not in str(told.value)
    with pytest.raises(JobMismatchError, match=r"command: there 'merge', here 'select'\n(.*\n)*  inputs: others"):
        select_rows(str(one), "true", str(tmp_path / "new"))
    usual = {"model": "builtin:tiny", "deterministic": True, "rows_per_shard": 15}
    job = {"inputs": [str(tmp_path / "one_in")], "output": str(tmp_path / "new")} | usual
    with pytest.raises(JobMismatchError, match="derived"):
        encode_in_process(EncodeJob.from_mapping(job))
    assert hash_files(tmp_path / "new") == files


def test_an_output_among_others_is_refused(tmp_path: Path, one: Path, two: Path) -> None:
    for place in (one, one / "new", tmp_path):
        with pytest.raises(OutputError, match="expected a folder apart from"):
            merge(one, two, output=place)


def test_an_output_within_another_is_found_behind_links(tmp_path: Path, one: Path, two: Path) -> None:
    (tmp_path / "link").symlink_to(one)
    before = hash_files(one)
    with pytest.raises(OutputError, match="expected a folder apart from"):
        merge(one, two, output=tmp_path / "link" / "new")
    with pytest.raises(OutputError, match="expected a folder apart from"):
        merge(tmp_path / "link", two, output=one / "new")
    assert hash_files(one) == before


def test_shards_of_another_output_are_refused_before_anything_is_written(tmp_path: Path, one: Path, two: Path) -> None:
    shutil.copytree(two / "data", tmp_path / "new" / "data")
    before = hash_files(tmp_path / "new")
    with pytest.raises(OutputError, match="holds what this command did not put there"):
        merge(one, two, output=tmp_path / "new")
    assert hash_files(tmp_path / "new") == before


def test_what_was_merged_already_is_not_merged_again(tmp_path: Path, one: Path, two: Path) -> None:
    both, again = tmp_path / "both", tmp_path / "again"
    merge(one, two, output=both)
    for outputs in ([both, two], [two, both]):
        with pytest.raises(ConfigError, match="expected each output once, got rows of"):
            merge(*outputs, output=again)
    assert not again.exists()
    merge(both, f"more={two}", output=again)


def test_a_folder_with_an_equals_sign_is_a_path(
    tmp_path: Path, one: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    two.rename(tmp_path / "lr=3")
    assert merge(one, "lr=3", output=tmp_path / "new").rows == 58


def test_where_the_model_is_is_remembered_as_far_as_all_agree(tmp_path: Path, encode: Encode) -> None:
    write_builtin("tiny", tmp_path / "repo" / "enc")
    usual = {"model": str(tmp_path / "repo"), "subfolder": "enc"}
    first = encode("first", {"a": numbered(CAPTIONS[:3])}, **usual)
    other = encode("other", {"b": numbered(CAPTIONS[3:6])}, **usual)
    named = encode("named", {"c": numbered(CAPTIONS[6:9])}, model=str(tmp_path / "repo" / "enc"))
    for origin in (first, other, named):
        options = json.loads((origin / JOB).read_bytes())["record"]["model"]
        (origin / ASKED).write_text(json.dumps({"options": {"model": options}, "left_out": []}))
    for origin in (first, other):
        (origin / ASKED).write_text(json.dumps({"options": usual, "left_out": []}))
    merge(first, other, output=tmp_path / "both")
    assert json.loads((tmp_path / "both" / JOB).read_bytes())["record"]["place"] == usual
    select_rows(str(tmp_path / "both"), "true", str(tmp_path / "part"))
    assert json.loads((tmp_path / "part" / JOB).read_bytes())["record"]["place"] == usual
    merge(tmp_path / "both", named, output=tmp_path / "all")
    assert json.loads((tmp_path / "all" / JOB).read_bytes())["record"]["place"] == {}


def test_somebody_elses_files_stay(tmp_path: Path, one: Path, two: Path) -> None:
    (tmp_path / "new").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "new" / "mine.parquet")
    with pytest.raises(OutputError, match=r"mine\.parquet"):
        merge(one, two, output=tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "mine.parquet"]


def test_content_keys_stay_where_all_have_them(tmp_path: Path, one: Path, two: Path) -> None:
    merge(one, two, output=tmp_path / "new")
    assert all(row[KEY.name] for row in read_rows(tmp_path / "new") if row[f"{PREFIX}error"] is None)
