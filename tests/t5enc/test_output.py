"""Reading outputs: what the manifest names, in its order, and nothing that merely lies there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from t5enc.embeddings import Embeddings
from t5enc.errors import OutputError, UnfinishedError
from t5enc.output import iter_embeddings, load_embeddings, open_output
from t5enc.storage import PREFIX
from t5enc.storage.layout import JOB, MANIFEST, OLD_JOB, STALE, SUCCESS
from tests.t5enc.written import finish, make_embeddings, make_table, write_job, write_shard

# In the order of rows, which is not that of names.
SHARDS = {
    "data/b_/000-x.parquet": (["one", "two"], [2, 1]),
    "data/b_/002-a.parquet": (["three"], [3]),
    "data/a_/000-y.parquet": (["four", "five"], [1, 4]),
}
CAPTIONS = [caption for captions, _ in SHARDS.values() for caption in captions]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished output of three shards, and leftovers beside them."""
    write_job(tmp_path)
    for seed, (name, (captions, lengths)) in enumerate(SHARDS.items()):
        write_shard(tmp_path, name, make_table(captions, make_embeddings(lengths, seed=seed)))
    stray = make_table(["stray"], make_embeddings([1]))
    write_shard(tmp_path, f"{STALE}/data/a_/000-z.parquet.1", stray)
    write_shard(tmp_path, "data/c_/000-z.parquet", stray)
    finish(tmp_path, list(SHARDS))
    return tmp_path


def expected_embeddings() -> Embeddings:
    lengths = [lengths for _, lengths in SHARDS.values()]
    return Embeddings.concatenate([make_embeddings(part, seed=seed) for seed, part in enumerate(lengths)])


def assert_holds(table: pa.Table, embeddings: Embeddings) -> None:
    assert table["caption"].to_pylist() == CAPTIONS
    expected = expected_embeddings()
    assert torch.equal(embeddings.values, expected.values)
    assert torch.equal(embeddings.offsets, expected.offsets)


def test_all_rows_come_in_the_order_of_the_manifest(folder: Path) -> None:
    table, embeddings = load_embeddings(folder)
    assert_holds(table, embeddings)
    assert f"{PREFIX}bytes" not in table.column_names
    assert f"{PREFIX}error" in table.column_names


def test_a_path_may_be_text_or_a_uri(folder: Path) -> None:
    assert_holds(*load_embeddings(str(folder)))
    assert_holds(*load_embeddings(folder.as_uri()))
    assert_holds(*load_embeddings(f"{folder}/"))


def test_shards_come_one_by_one(folder: Path) -> None:
    parts = list(iter_embeddings(folder, ["caption"]))
    assert [table["caption"].to_pylist() for table, _ in parts] == [captions for captions, _ in SHARDS.values()]
    assert_holds(pa.concat_tables([table for table, _ in parts]), Embeddings.concatenate([part for _, part in parts]))


@pytest.mark.parametrize("columns", [[], ["caption"], [f"{PREFIX}row", "caption"]])
def test_only_the_columns_asked_for_are_read(columns: list[str], folder: Path) -> None:
    table, embeddings = load_embeddings(folder, columns)
    assert set(table.column_names) == set(columns)
    assert len(embeddings) == len(CAPTIONS)


def test_a_column_that_is_not_there_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(OutputError, match=r"no column 'text'; expected one of caption, text_embedding_source"):
        load_embeddings(folder, ["text"])


def test_one_shard_can_be_read_by_itself(folder: Path) -> None:
    name = "data/b_/002-a.parquet"
    table, embeddings = load_embeddings(folder / name)
    assert table["caption"].to_pylist() == ["three"]
    assert torch.equal(embeddings.values, make_embeddings([3], seed=1).values)


def test_failed_rows_have_no_tokens_and_a_reason(tmp_path: Path) -> None:
    write_job(tmp_path)
    write_shard(tmp_path, "data/a_/0.parquet", make_table(["x", "y", "z"], make_embeddings([1, 2, 1]), failed=[1]))
    finish(tmp_path, ["data/a_/0.parquet"])
    table, embeddings = load_embeddings(tmp_path)
    assert embeddings.lengths.tolist() == [1, 0, 1]
    assert table[f"{PREFIX}error"].to_pylist() == [None, "it failed", None]


def damage_manifest(folder: Path) -> None:
    finish_of_other = pa.table({"name": ["data/c_/000-z.parquet"]})
    pq.write_table(finish_of_other, folder / MANIFEST)


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def remove_success(folder: Path) -> None:
    (folder / SUCCESS).unlink()


@pytest.mark.parametrize("spoil", [damage_manifest, remove_manifest, remove_success])
def test_an_unfinished_output_is_read_only_on_request(spoil: object, folder: Path) -> None:
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(UnfinishedError, match="the job is not finished"):
        load_embeddings(folder)
    opened = open_output(folder, partial=True)
    assert not opened.is_finished
    assert set(opened.shards) == {*SHARDS, "data/c_/000-z.parquet"}
    assert "stray" in load_embeddings(folder, partial=True)[0]["caption"].to_pylist()


def test_asking_for_partial_output_changes_nothing_once_it_is_finished(folder: Path) -> None:
    assert_holds(*load_embeddings(folder, partial=True))


def test_an_output_says_which_job_wrote_it(folder: Path) -> None:
    opened = open_output(folder)
    assert opened.is_finished
    assert opened.job["identity"]["model"] == "builtin:tiny"
    assert opened.shards == tuple(SHARDS)


def test_a_folder_that_no_job_wrote_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(OutputError, match=f"expected the output of a t5enc job, got a folder without {JOB}"):
            load_embeddings(path)


def test_an_output_of_format_1_is_refused_with_the_command_that_moves_it_over(folder: Path) -> None:
    (folder / OLD_JOB).write_bytes((folder / JOB).read_bytes())
    shard = next(iter(SHARDS))
    for path in (folder, folder / shard):
        with pytest.raises(OutputError, match=f"got one of format 1, with {OLD_JOB}.*`t5enc fsck --migrate {folder}`"):
            load_embeddings(path, partial=True)


@pytest.mark.parametrize("found", [None, 1, 3])
def test_an_output_of_another_format_is_refused(found: int | None, folder: Path) -> None:
    job = json.loads((folder / JOB).read_text()) | {"format": found}
    (folder / JOB).write_text(json.dumps(job))
    with pytest.raises(OutputError, match=f"expected an output of format 2, got {JOB} of format {found}"):
        load_embeddings(folder)


def test_a_job_that_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / JOB).write_text("{")
    with pytest.raises(OutputError, match=f"{JOB}: expected JSON, got"):
        load_embeddings(folder)


def test_an_output_without_shards_is_refused(tmp_path: Path) -> None:
    write_job(tmp_path)
    with pytest.raises(OutputError, match="expected at least one shard, got none"):
        load_embeddings(tmp_path, partial=True)


def test_a_shard_that_is_gone_or_damaged_is_named(folder: Path) -> None:
    name = "data/b_/002-a.parquet"
    (folder / name).write_bytes(b"PAR1")
    with pytest.raises(OutputError, match=f"{name}: expected a Parquet shard, got "):
        load_embeddings(folder)
    (folder / name).unlink()
    with pytest.raises(OutputError, match=f"{name}: expected a Parquet shard, got "):
        load_embeddings(folder)


def test_a_parquet_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(OutputError, match="was not written by t5enc"):
        load_embeddings(tmp_path / "a.parquet")


def test_the_public_names_are_these_functions() -> None:
    import t5enc

    assert t5enc.load_embeddings is load_embeddings
    assert t5enc.iter_embeddings is iter_embeddings


def test_the_mark_of_success_holds_the_hash_of_the_manifest(folder: Path) -> None:
    success = json.loads((folder / SUCCESS).read_text())
    (folder / SUCCESS).write_text(json.dumps(success | {"manifest_sha256": "0"}))
    with pytest.raises(UnfinishedError):
        open_output(folder)
