"""What rows refer to: not there, damaged, replaced by another run, or numbered with shards that do not count."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import encode, encode_parquet
from pipelines.commands.fsck import check_output
from pipelines.run.shared_job import COPIED_FROM
from pipelines.stores.store import open_store
from t5enc import EmbeddingDataset, load_embeddings
from t5enc.checks.inspect import print_output
from t5enc.errors import OutputError
from t5enc.output import open_output
from t5enc.shards.shared import SharedRows
from t5enc.storage import KEY, SHARED_ROW
from t5enc.storage.layout import CARD, JOB, REPORT, SHARED
from t5enc.trainers.rows import Columns, open_shards, read_rows
from tests.pipelines.dedup.jobs import TEXTS, assert_as_plain, encode_plain, make_job, write_files
from tests.pipelines.dedup.test_changes import CHANGED
from tests.pipelines.dedup.writes import Killed, stopping_at
from tests.pipelines.in_process import encode_in_process
from tests.t5enc.dataset.referring.making import refer

pytestmark = pytest.mark.usefixtures("in_process")
OPTIONS = {"dedup": "job", "duplicates": "referenced"}


def test_an_output_of_which_nothing_comes_again_is_read_without_shared_rows(tmp_path: Path) -> None:
    files = {"a": TEXTS[:5], "b": [*TEXTS[5:9], None]}
    plain = encode_plain(tmp_path, files)
    encode_parquet(make_job(tmp_path / "in", tmp_path / "once", **OPTIONS))
    assert not (tmp_path / "once" / SHARED).exists()
    assert_as_plain(tmp_path / "once", plain)
    assert len(EmbeddingDataset(tmp_path / "once")) == 9
    assert SHARED not in (tmp_path / "once" / CARD).read_text().replace("text_embedding_shared_row", "")


def test_a_run_of_an_older_generation_leaves_shared_rows_of_a_newer_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older one is held between its check and the freezing of its inner job."""
    out, plain = tmp_path / "once", encode_plain(tmp_path, CHANGED)
    begin, held = encode.begin_run, []

    def hold(job: Any, device: Any, **how: Any) -> Any:
        if how.get("within") is not None and not held:
            held.append(job)
            encode_parquet(make_job(tmp_path / "in", out, overwrite=True, **OPTIONS))
        return begin(job, device, **how)

    monkeypatch.setattr(encode, "begin_run", hold)
    with pytest.raises(OutputError, match="another run has overwritten this output while this one worked"):
        encode_parquet(make_job(write_files(tmp_path / "older"), out, **OPTIONS))
    assert_as_plain(out, plain)


def test_a_run_does_not_end_where_what_its_rows_refer_to_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, inputs, take = tmp_path / "once", write_files(tmp_path / "in"), encode.take_from
    other = tmp_path / "other"
    encode_parquet(make_job(write_files(tmp_path / "changed", CHANGED), other, **OPTIONS))

    def replace(run: Any, shared: Any) -> None:
        take(run, shared)
        (out / SHARED).rename(tmp_path / "lost")
        (other / SHARED).rename(out / SHARED)

    with monkeypatch.context() as patch:
        patch.setattr(encode, "take_from", replace)
        with pytest.raises(OutputError, match="another run has replaced what rows refer to while this one worked"):
            encode_parquet(make_job(inputs, out, **OPTIONS))
    assert not open_output(out, partial=True).is_finished


def test_rows_are_numbered_over_the_shards_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of an earlier generation is late: it writes its shard of what rows refer to once more."""
    out, plain = tmp_path / "once", encode_plain(tmp_path, CHANGED)
    encode_parquet(make_job(write_files(tmp_path / "older"), out, **OPTIONS))
    (late,) = (out / SHARED / "data").rglob("*.parquet")
    data, find = late.read_bytes(), encode.find_output

    def find_late(path: str) -> Any:
        late.parent.mkdir(exist_ok=True, parents=True)
        late.write_bytes(data)
        return find(path)

    monkeypatch.setattr(encode, "find_output", find_late)
    encode_parquet(make_job(tmp_path / "in", out, overwrite=True, **OPTIONS))
    name = str(late.relative_to(out))
    assert [problem.name for problem in check_output(open_store(str(out)), deep=True)] == [name]
    late.unlink()
    assert_as_plain(out, plain)


def test_an_overwritten_output_is_not_taken_for_one_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, make = tmp_path / "once", encode.make_shared_job
    write_files(tmp_path / "other", CHANGED)

    def overwritten(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(encode, "make_shared_job", make)
            encode_parquet(make_job(tmp_path / "other", out, overwrite=True, **OPTIONS))
        raise OutputError("something else")

    monkeypatch.setattr(encode, "make_shared_job", overwritten)
    with pytest.raises(OutputError, match="another run has overwritten this output"):
        encode_parquet(make_job(write_files(tmp_path / "in"), out, **OPTIONS))
    load_embeddings(out)


@pytest.mark.parametrize("damage", ["torn", "gone", "all gone"])
def test_shared_rows_that_are_damaged_or_gone_are_encoded_again(tmp_path: Path, damage: str) -> None:
    out, plain = tmp_path / "once", encode_plain(tmp_path)
    job = make_job(tmp_path / "in", out, **OPTIONS)
    encode_parquet(job)
    (shard,) = (out / SHARED / "data").rglob("*.parquet")
    if damage == "torn":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "gone":
        shard.unlink()
    else:
        shutil.rmtree(out / SHARED)
    assert all(problem.name.startswith(SHARED) for problem in check_output(open_store(str(out))))
    assert check_output(open_store(str(out)))
    encode_parquet(job)
    assert_as_plain(out, plain)


def test_a_torn_job_of_shared_rows_is_named_as_theirs(tmp_path: Path) -> None:
    job = make_job(write_files(tmp_path / "in"), tmp_path / "once", **OPTIONS)
    encode_parquet(job)
    (tmp_path / "once" / SHARED / JOB).write_text("{")
    (problem,) = check_output(open_store(str(tmp_path / "once")))
    assert problem.name == f"{SHARED}/{JOB}"
    with pytest.raises(OutputError, match=f"once/{SHARED}: {JOB}"):
        encode_parquet(job)


@pytest.fixture(scope="module")
def referring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with several shards of `shared/` rows."""
    folder = tmp_path_factory.mktemp("referring")
    texts = [f"{TEXTS[row % 14]} number {row}" for row in range(40)]
    job = make_job(write_files(folder / "in", {"a": texts, "b": texts}), folder / "once", **OPTIONS)
    encode_in_process(job)
    return folder / "once"


def test_shared_rows_are_read_in_a_process_that_is_forked_and_go_along_to_others(referring: Path) -> None:
    folder = open_output(referring)
    assert folder.shared is not None
    folder.shared.rows.process.share_bytes = 1
    folder.shared.rows.process.run([int] * 8)
    _, embeddings = folder.read_shard(folder.shards[0])
    child = os.fork()
    if child == 0:
        rows = folder.shared.rows
        os._exit(0 if rows.process.run([int] * 8) == [0] * 8 else 1)
    assert os.waitpid(child, 0)[1] == 0
    _, again = pickle.loads(pickle.dumps(folder)).read_shard(folder.shards[0])
    assert again.values.equal(embeddings.values)


def test_a_row_is_found_without_the_indexes_of_other_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = encode_plain(tmp_path, {"a": [f"{TEXTS[row % 14]} number {row}" for row in range(40)]})
    refer(out, shard_rows=4)
    folder = open_output(out)
    read, numbers = SharedRows._read_index, []

    def note(rows: SharedRows, shard: int) -> Any:
        numbers.append(shard)
        return read(rows, shard)

    monkeypatch.setattr(SharedRows, "_read_index", note)
    folder.read_shard(folder.shards[0])
    assert folder.shared is not None
    assert 0 < len(numbers) < len(folder.shared.shards)


def test_a_shard_that_was_written_again_without_keys_is_named(tmp_path: Path, referring: Path) -> None:
    out = shutil.copytree(referring, tmp_path / "once")
    shard = out / open_output(out).shards[0]
    table = pq.read_table(shard, partitioning=None)
    pq.write_table(table.drop([KEY.name]), shard)
    with pytest.raises(OutputError, match=f"{shard.name}: no column '{KEY.name}', by which rows"):
        load_embeddings(out)
    (opened, *_) = open_shards(open_output(out), Columns(caption="caption"))
    with pytest.raises(OutputError, match=f"{shard.name}: no column '{KEY.name}', by which rows"):
        list(read_rows(opened, Columns(caption="caption"), 0))


def test_inspect_names_a_shard_that_refers_to_a_row_before_the_first(tmp_path: Path, referring: Path) -> None:
    out = shutil.copytree(referring, tmp_path / "once")
    shard = out / open_output(out).shards[0]
    table = pq.read_table(shard, partitioning=None)
    place = table.schema.get_field_index(SHARED_ROW.name)
    bad = pa.array([-3] * len(table), SHARED_ROW.type)
    pq.write_table(table.set_column(place, table.schema.field(place), bad), shard)
    with pytest.raises(OutputError, match=rf"{shard.name}: expected \d+ rows in shared/, got a row -3"):
        print_output(str(out), rows=0, partial=False)


@pytest.mark.parametrize("name", ["captions_file.tempfile.TemporaryFile", "repeats.tempfile.TemporaryDirectory"])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.ENOENT])
def test_a_temporary_folder_that_is_full_or_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: int
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(f"pipelines.dedup.{name}", refuse)
    with pytest.raises(OutputError, match=f"TMPDIR: .* in the temporary folder {gettempdir()}, and cannot be"):
        encode_parquet(make_job(write_files(tmp_path / "in"), tmp_path / "once", dedup="job"))


def test_what_a_killed_run_left_below_the_notes_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / "once" / COPIED_FROM / REPORT
    job = make_job(write_files(tmp_path / "in"), tmp_path / "once", dedup="job")
    with pytest.raises(Killed), stopping_at(2):
        encode_parquet(job)
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    assert encode_parquet(job).is_finished
    assert not left.exists()
