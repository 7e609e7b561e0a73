"""Equal captions of a whole job are encoded once, whatever happens on the way; the output is a plain job's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pipelines import encode_parquet
from pipelines.dedup.captions_file import read_found
from pipelines.dedup.key_files import DISTINCT
from pipelines.dedup.repeats import Tally
from pipelines.run.shared_job import COPIED_FROM
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.errors import ConfigError
from tests.pipelines.dedup.jobs import TEXTS, assert_as_plain, encode_plain, make_job, write_files

pytestmark = pytest.mark.usefixtures("in_process")
DUPLICATES = ("copied", "referenced")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job without dedup makes of the files."""
    return encode_plain(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_an_output_is_what_a_plain_job_makes(tmp_path: Path, plain: Path, duplicates: str) -> None:
    job = make_job(write_files(tmp_path / "in"), tmp_path / "out", dedup="job", duplicates=duplicates)
    report = encode_parquet(job)
    assert report.is_finished
    assert_as_plain(tmp_path / "out", plain)


def test_what_is_stored_once_is_an_output_of_its_own_with_each_repeated_caption(tmp_path: Path) -> None:
    encode_parquet(make_job(write_files(tmp_path / "in"), tmp_path / "out", dedup="job", duplicates="referenced"))
    table, _ = load_embeddings(tmp_path / "out" / "shared")
    assert table["text_embedding_row"].to_pylist() == [0, 1, 2]
    store = open_store(str(tmp_path / "out"))
    assert read_found(store, 1) == Tally(captions=20, repeated=8, distinct=3)
    assert [name for name, _ in store.list(DISTINCT)] == [f"{DISTINCT}/captions-1"]


def test_what_was_copied_from_is_gone_when_the_job_is_done(tmp_path: Path) -> None:
    encode_parquet(make_job(write_files(tmp_path / "in"), tmp_path / "out", dedup="job"))
    assert not (tmp_path / "out" / COPIED_FROM).exists()
    assert not (tmp_path / "out" / DISTINCT).exists()


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_captions_of_which_none_comes_again_are_encoded_as_ever(tmp_path: Path, duplicates: str) -> None:
    inputs = write_files(tmp_path / "in", {"a": TEXTS[:5], "b": [*TEXTS[5:9], None]})
    report = encode_parquet(make_job(inputs, tmp_path / "out", dedup="job", duplicates=duplicates))
    assert report.is_finished
    assert not (tmp_path / "out" / "shared").exists()
    assert not (tmp_path / "out" / COPIED_FROM).exists()


def test_what_a_job_needs_and_is_not_installed_is_told_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "duckdb" else find_spec(name, *rest)
    )
    with pytest.raises(ConfigError, match="encode needs DuckDB, which is not installed"):
        encode_parquet(make_job(write_files(tmp_path / "in"), tmp_path / "out", dedup="job"))
    assert not (tmp_path / "out").exists()
