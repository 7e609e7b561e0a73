"""Inputs that change, cannot be read or hold no text, and an output that is begun anew or damaged, with dedup."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import encode_parquet
from pipelines.commands.fsck import check_output
from pipelines.dedup.captions_file import read_found
from pipelines.job import FrozenJob
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.errors import OutputError
from t5enc.storage.layout import JOB, SHARED, STALE
from tests.pipelines.dedup.jobs import TEXTS, assert_as_plain, encode_plain, make_job, write_files
from tests.pipelines.dedup.writes import Killed, stopping_at

pytestmark = pytest.mark.usefixtures("in_process")
DUPLICATES = ("copied", "referenced")
# Another caption comes again, and one that did no longer does.
CHANGED = {"a": [*TEXTS[3:9], "a new one"], "b": [*TEXTS[:5], "a new one", "another"], "d": [TEXTS[0], TEXTS[12]]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job without dedup makes of the files."""
    return encode_plain(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What it makes of the changed ones."""
    return encode_plain(tmp_path_factory.mktemp("changed"), CHANGED)


@pytest.mark.parametrize("duplicates", DUPLICATES)
@pytest.mark.parametrize("last", [0, 9, 14, 24])
def test_inputs_may_change_between_runs(tmp_path: Path, changed: Path, duplicates: str, last: int) -> None:
    inputs = write_files(tmp_path / "in")
    options = {"dedup": "job", "duplicates": duplicates, "replace": True}
    job = make_job(inputs, tmp_path / "out", **options)
    try:
        with stopping_at(last):
            encode_parquet(job)
    except Killed:
        pass
    for path in inputs.iterdir():
        path.unlink()
    encode_parquet(make_job(write_files(inputs, CHANGED), tmp_path / "out", **options))
    assert_as_plain(tmp_path / "out", changed)


@pytest.mark.parametrize("duplicates", DUPLICATES)
@pytest.mark.parametrize("last", [0, 12, 20, 30])
def test_an_output_that_is_begun_anew_has_nothing_of_the_old_one(
    tmp_path: Path, changed: Path, duplicates: str, last: int
) -> None:
    options = {"dedup": "job", "duplicates": duplicates}
    encode_parquet(make_job(write_files(tmp_path / "in"), tmp_path / "out", **options))
    job = make_job(write_files(tmp_path / "other", CHANGED), tmp_path / "out", **options, overwrite=True)
    try:
        with stopping_at(last):
            encode_parquet(job)
    except Killed:
        encode_parquet(make_job(tmp_path / "other", tmp_path / "out", **options))
    assert_as_plain(tmp_path / "out", changed)


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_earlier_outputs_serve_what_is_encoded_first_too_and_may_vanish(
    tmp_path: Path, plain: Path, duplicates: str
) -> None:
    inputs, old = write_files(tmp_path / "in"), tmp_path / "old"
    encode_parquet(make_job(inputs, old))
    options = {"dedup": "job", "duplicates": duplicates, "reuse": [str(old)]}
    report = encode_parquet(make_job(inputs, tmp_path / "out", **options))
    assert report.progress.cost.useful_tokens == report.dedup["useful_tokens"] == 0
    assert_as_plain(tmp_path / "out", plain)
    with pytest.raises(Killed), stopping_at(6):
        encode_parquet(make_job(inputs, tmp_path / "again", **options))
    shutil.rmtree(old)
    encode_parquet(make_job(inputs, tmp_path / "again", **options))
    assert_as_plain(tmp_path / "again", plain)


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_an_output_is_refreshed_from_itself(tmp_path: Path, changed: Path, duplicates: str) -> None:
    inputs, output = write_files(tmp_path / "in"), tmp_path / "out"
    options = {"dedup": "job", "duplicates": duplicates}
    encode_parquet(make_job(inputs, output, **options))
    (inputs / "c.parquet").unlink()
    report = encode_parquet(
        make_job(write_files(inputs, CHANGED), output, **options, replace=True, reuse=[str(output)])
    )
    assert_as_plain(output, changed)
    assert report.progress.cost.useful_tokens < report.totals["tokens"] / 4


def test_shared_embeddings_are_put_aside_where_the_new_job_has_none(tmp_path: Path, plain: Path) -> None:
    inputs = write_files(tmp_path / "in")
    encode_parquet(make_job(inputs, tmp_path / "out", dedup="job", duplicates="referenced"))
    encode_parquet(make_job(inputs, tmp_path / "out", overwrite=True))
    assert_as_plain(tmp_path / "out", plain)
    store = open_store(str(tmp_path / "out"))
    assert not list(store.list(SHARED))
    assert any(name.startswith(f"{STALE}/{SHARED}/") for name, _ in store.list(STALE))


def test_what_somebody_else_put_where_shared_embeddings_go_stays(tmp_path: Path) -> None:
    inputs = write_files(tmp_path / "in")
    encode_parquet(make_job(inputs, tmp_path / "out" / SHARED))
    with pytest.raises(OutputError, match="expected room for embeddings of this job, got another output"):
        encode_parquet(make_job(inputs, tmp_path / "out", dedup="job", duplicates="referenced"))
    assert check_output(open_store(str(tmp_path / "out" / SHARED))) == []
    encode_parquet(make_job(inputs, tmp_path / "out", overwrite=True))
    assert check_output(open_store(str(tmp_path / "out" / SHARED))) == []


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_an_input_that_cannot_be_read_is_left_out(tmp_path: Path, plain: Path, duplicates: str) -> None:
    inputs = write_files(tmp_path / "in")
    whole = (inputs / "c.parquet").read_bytes()
    start = pq.read_metadata(inputs / "c.parquet").row_group(0).column(1).dictionary_page_offset
    (inputs / "c.parquet").write_bytes(whole[:start] + b"\xff" * 40 + whole[start + 40 :])
    job = make_job(inputs, tmp_path / "out", dedup="job", duplicates=duplicates)
    report = encode_parquet(job)
    assert list(report.unreadable) == ["c.parquet"]
    (inputs / "c.parquet").write_bytes(whole)
    encode_parquet(job)
    assert_as_plain(tmp_path / "out", plain)


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_captions_that_are_bytes_lists_or_no_text_at_all(tmp_path: Path, duplicates: str) -> None:
    lists = [[TEXTS[0].encode(), b"\xff\xfe", TEXTS[1].encode()], [], None, [TEXTS[1].encode(), TEXTS[0].encode()]]
    (tmp_path / "in").mkdir()
    for name in "ab":
        table = pa.table({"caption": pa.array(lists, pa.list_(pa.binary()))})
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet")
    encode_parquet(make_job(tmp_path / "in", tmp_path / "plain"))
    encode_parquet(make_job(tmp_path / "in", tmp_path / "out", dedup="job", duplicates=duplicates))
    assert_as_plain(tmp_path / "out", tmp_path / "plain")


def test_captions_that_are_cut_alike_are_one(tmp_path: Path) -> None:
    long = " ".join(["word"] * 40)
    inputs = write_files(tmp_path / "in", {"a": [f"{long} one"], "b": [f"{long} two"], "c": ["three"]})
    job = make_job(inputs, tmp_path / "out", dedup="job", duplicates="referenced", max_length=8)
    assert encode_parquet(job).totals["shared"] == 2
    table, embeddings = load_embeddings(tmp_path / "out")
    assert embeddings[0].equal(embeddings[1])
    assert table["caption"].to_pylist() == [f"{long} one", f"{long} two", "three"]


def test_fsck_finds_references_that_lead_elsewhere(tmp_path: Path) -> None:
    encode_parquet(make_job(write_files(tmp_path / "in"), tmp_path / "out", dedup="job", duplicates="referenced"))
    store = open_store(str(tmp_path / "out"))
    assert check_output(store, deep=True) == []
    (shard,) = (name for name, _ in store.list(f"{SHARED}/data"))
    data = store.read(shard)
    store.replace(shard, data[:200] + bytes([data[200] ^ 1]) + data[201:])
    assert [problem.name for problem in check_output(store, deep=True)] == [shard]
    store.replace(shard, data)
    for name, _ in list(store.list(SHARED)):
        store.delete(name)
    for deep in (False, True):
        (problem,) = check_output(store, deep=deep)
        assert str(problem.what).startswith("missing, though 8 rows refer to it")


def test_generations_are_told_apart(tmp_path: Path) -> None:
    inputs = write_files(tmp_path / "in")
    for overwrite in (False, True, True):
        job = make_job(inputs, tmp_path / "out", dedup="job", duplicates="referenced", overwrite=overwrite)
        encode_parquet(job)
    store = open_store(str(tmp_path / "out"))
    assert FrozenJob.from_json(store.read(f"{SHARED}/{JOB}")).generation == 3
    assert [read_found(store, generation) is None for generation in (1, 2, 3)] == [True, True, False]
