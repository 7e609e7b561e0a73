"""Inputs change, and `t5enc refresh` makes of an output what a fresh job would write, row by row."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.commands.fsck import check_output
from pipelines.commands.refresh import make_job
from pipelines.progress.report import EncodeReport
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import OutputError
from tests.pipelines.same_rows import assert_equal_outputs

pytestmark = pytest.mark.usefixtures("in_process")
FILES = 4
CAPTIONS = [f"{caption}, take {number}" for number in range(5) for caption in sample_captions()[:40]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where indexes of keys lie."""
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr("pipelines.reuse.index_cache.find_cache", lambda: tmp_path / "cache")


def write(folder: Path, captions: list[list[str]]) -> None:
    """A file for each list, and no other."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for number, texts in enumerate(captions):
        ids = [hash(text) % 1000 for text in texts]
        pq.write_table(pa.table({"caption": texts, "id": ids}), folder / f"{number}.parquet")


def cut(captions: list[str], files: int = FILES) -> list[list[str]]:
    size = -(-len(captions) // files)
    return [captions[start : start + size] for start in range(0, len(captions), size)]


def ask(inputs: Path, output: Path) -> EncodeJob:
    return EncodeJob(
        inputs=[str(inputs)], output=str(output), model="builtin:tiny", deterministic=True, rows_per_shard=30
    )


def refresh(output: Path) -> EncodeReport:
    return encode_parquet(make_job(str(output), {}))


def reorder(captions: list[str]) -> list[list[str]]:
    shuffled = random.Random(0).sample(captions, len(captions))
    return cut(shuffled, 3)


def edit(captions: list[str]) -> list[list[str]]:
    return cut([text if place % 100 else text.replace("take", "cut") for place, text in enumerate(captions)])


CHANGES: dict[str, tuple[Callable[[list[str]], list[list[str]]], int]] = {
    "one caption of a hundred is edited": (edit, 2),
    "rows move among files": (reorder, 0),
    "a file is gone": (lambda captions: cut(captions)[1:], 0),
    "rows are added": (lambda captions: [*cut(captions), ["a new one", "and another"]], 2),
    "rows are removed": (lambda captions: cut(captions[::2]), 0),
    "nothing has changed": (cut, 0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_output_is_what_a_fresh_job_writes_and_only_what_is_new_is_computed(name: str, tmp_path: Path) -> None:
    change, new = CHANGES[name]
    write(tmp_path / "in", cut(CAPTIONS))
    first = encode_parquet(ask(tmp_path / "in", tmp_path / "out"))
    write(tmp_path / "in", change(CAPTIONS))
    report = refresh(tmp_path / "out")
    encode_parquet(ask(tmp_path / "in", tmp_path / "fresh"))
    assert_equal_outputs(tmp_path / "out", tmp_path / "fresh")
    assert check_output(open_store(str(tmp_path / "out")), deep=True) == []
    counts, cost = report.progress.counts, report.progress.cost
    assert counts.captions - counts.reused == new
    assert cost.useful_tokens <= 0.011 * first.progress.cost.useful_tokens


def test_a_refresh_that_is_killed_goes_on_with_what_was_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in", cut(CAPTIONS))
    encode_parquet(ask(tmp_path / "in", tmp_path / "out"))
    write(tmp_path / "in", reorder(CAPTIONS))
    job = make_job(str(tmp_path / "out"), {})
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.encode._take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode_parquet(job)
    report = refresh(tmp_path / "out")
    encode_parquet(ask(tmp_path / "in", tmp_path / "fresh"))
    assert_equal_outputs(tmp_path / "out", tmp_path / "fresh")
    assert report.progress.cost.useful_tokens == 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_edit_that_leaves_size_and_footer_is_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    path = tmp_path / "in" / "a.parquet"
    pq.write_table(pa.table({"caption": ["a cat", "a dog"]}), path, **options)
    encode_parquet(ask(tmp_path / "in", tmp_path / "out"))
    pq.write_table(pa.table({"caption": ["a cat", "a cow"]}), path, **options)
    counts = refresh(tmp_path / "out").progress.counts
    assert (counts.captions, counts.reused) == (2, 1)
    assert load_embeddings(tmp_path / "out")[0]["caption"].to_pylist() == ["a cat", "a cow"]


def test_other_inputs_may_be_given(tmp_path: Path) -> None:
    write(tmp_path / "in", cut(CAPTIONS[:20]))
    encode_parquet(ask(tmp_path / "in", tmp_path / "out"))
    write(tmp_path / "moved", cut(CAPTIONS[:20]))
    report = encode_parquet(make_job(str(tmp_path / "out"), {"inputs": [str(tmp_path / "moved")]}))
    assert report.progress.cost.useful_tokens == 0


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected the output of a t5enc job, got a folder without"):
        make_job(str(tmp_path), {})
