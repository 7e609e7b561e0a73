"""Inputs change, and `t5enc refresh` makes of an output what a fresh job would write, row by row."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.commands.fsck import check_output
from pipelines.commands.refresh import make_job
from pipelines.encode import _take as take_result
from pipelines.progress.report import EncodeReport
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import OutputError
from t5enc.storage.layout import STALE
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


def refresh(output: Path, **given: Any) -> EncodeReport:
    return encode_parquet(make_job(str(output), given))


def take(number: int, monkeypatch: pytest.MonkeyPatch, job: EncodeJob) -> None:
    """A run that is killed when it has taken so many results."""
    taken = 0

    def count(*arguments: Any) -> None:
        nonlocal taken
        if taken == number:
            raise KeyboardInterrupt
        taken += 1
        take_result(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.encode._take", count)
        with pytest.raises(KeyboardInterrupt):
            encode_parquet(job)


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
    report = refresh(tmp_path / "out", replace=True)
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
    take(0, monkeypatch, job)
    report = refresh(tmp_path / "out")
    encode_parquet(ask(tmp_path / "in", tmp_path / "fresh"))
    assert_equal_outputs(tmp_path / "out", tmp_path / "fresh")
    assert report.progress.cost.useful_tokens == 0


def write_bare(folder: Path, captions: list[str]) -> None:
    """A file whose size and footer say nothing of its captions but how long they are together."""
    folder.mkdir(exist_ok=True)
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"caption": captions}), folder / "a.parquet", **options)


def read_captions(output: Path) -> list[str]:
    table, _ = load_embeddings(output)
    return list(table["caption"].to_pylist())


def test_an_edit_that_leaves_size_and_footer_is_found(tmp_path: Path) -> None:
    write_bare(tmp_path / "in", ["a cat", "a dog"])
    encode_parquet(ask(tmp_path / "in", tmp_path / "out"))
    write_bare(tmp_path / "in", ["a cat", "a cow"])
    counts = refresh(tmp_path / "out").progress.counts
    assert (counts.captions, counts.reused) == (2, 1)
    assert read_captions(tmp_path / "out") == ["a cat", "a cow"]
    assert refresh(tmp_path / "out").progress.counts.captions == 0


def test_such_an_edit_is_found_in_a_job_that_was_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bare(tmp_path / "in", ["a cat", "a dog", "a cow", "a pig"])
    job = EncodeJob(inputs=[str(tmp_path / "in")], output=str(tmp_path / "out"), model="builtin:tiny", rows_per_shard=1)
    take(2, monkeypatch, job)
    write_bare(tmp_path / "in", ["b cat", "b dog", "b cow", "b pig"])
    refresh(tmp_path / "out")
    assert read_captions(tmp_path / "out") == ["b cat", "b dog", "b cow", "b pig"]


def test_a_redo_that_is_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [f"{word} {number}" for number in range(4) for word in ("a cat", "a cow")]
    write_bare(tmp_path / "in", captions)
    job = EncodeJob(inputs=[str(tmp_path / "in")], output=str(tmp_path / "out"), model="builtin:tiny", rows_per_shard=1)
    encode_parquet(job)
    write_bare(tmp_path / "in", captions[::-1])
    again = make_job(str(tmp_path / "out"), {})
    for _ in range(2):
        take(2, monkeypatch, again)
    report = refresh(tmp_path / "out")
    assert report.progress.counts.captions <= 4
    assert read_captions(tmp_path / "out") == captions[::-1]
    assert len(list((tmp_path / "out" / STALE).rglob("*.parquet*"))) == len(captions)


def test_it_is_the_last_run_that_is_repeated(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_bare(tmp_path / name, [f"{name} cat", f"{name} cow"])
    encode_parquet(ask(tmp_path / "one", tmp_path / "out"))
    both = [str(tmp_path / "one"), str(tmp_path / "two")]
    encode_parquet(
        EncodeJob(
            inputs=both, output=str(tmp_path / "out"), model="builtin:tiny", deterministic=True, rows_per_shard=30
        )
    )
    refresh(tmp_path / "out")
    assert len(read_captions(tmp_path / "out")) == 4
    refresh(tmp_path / "out", inputs=both[1:], replace=True)
    refresh(tmp_path / "out")
    assert read_captions(tmp_path / "out") == ["two cat", "two cow"]


def test_inputs_that_are_not_all_there_want_a_word(tmp_path: Path) -> None:
    write(tmp_path / "in", cut(CAPTIONS))
    encode_parquet(ask(tmp_path / "in", tmp_path / "out"))
    for number in range(3):
        (tmp_path / "in" / f"{number}.parquet").unlink()
    with pytest.raises(
        OutputError, match=r"the inputs have 50 rows by now, the output has those of 200\. Say --replace"
    ):
        refresh(tmp_path / "out")
    assert read_captions(tmp_path / "out") == CAPTIONS
    assert "put aside in _t5enc/stale/: 6 shards" in str(refresh(tmp_path / "out", replace=True))


def test_other_inputs_may_be_given(tmp_path: Path) -> None:
    write(tmp_path / "in", cut(CAPTIONS[:20]))
    encode_parquet(ask(tmp_path / "in", tmp_path / "out"))
    write(tmp_path / "moved", cut(CAPTIONS[:20]))
    report = encode_parquet(make_job(str(tmp_path / "out"), {"inputs": [str(tmp_path / "moved")]}))
    assert report.progress.cost.useful_tokens == 0


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected the output of a t5enc job, got a folder without"):
        make_job(str(tmp_path), {})
