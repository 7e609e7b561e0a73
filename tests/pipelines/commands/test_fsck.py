"""fsck: silent about a finished output, and every kind of damage is found by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.commands.fsck import Problem, check_output, print_problems
from pipelines.commit.planned import write_plan
from pipelines.commit.protocol import begin_commit, commit_shard, conclude_commit
from pipelines.commit.records import read_footer_record
from pipelines.plan.plan import Files
from pipelines.stores.store import LocalStore
from t5enc.errors import OutputError
from t5enc.storage.layout import JOB, LOG, MANIFEST, PLAN, STALE, SUCCESS, TEMPORARY
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.small_jobs import make_job, make_unit_shard, plan_file

FILES = [plan_file("a.parquet", 4), plan_file("b.parquet", 1)]


def make_output() -> MemoryStore:
    """A finished output of three shards."""
    store = MemoryStore()
    commit = begin_commit(store, make_job(), FILES)
    for unit in commit.left:
        commit.records[unit.name] = commit_shard(store, *make_unit_shard(commit.frozen, unit))
    conclude_commit(store, commit)
    return store


FIRST, SECOND, LAST = [name for name in make_output().objects if name.endswith(".parquet")]


def problems(store: MemoryStore, *, deep: bool = False) -> dict[str, str]:
    return {problem.name: problem.what for problem in check_output(store, deep=deep)}


def rewrite_manifest(store: MemoryStore, change: Callable[[pa.Table], pa.Table]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(change(pq.read_table(pa.BufferReader(store.read(MANIFEST)))), sink)
    store.replace(MANIFEST, sink.getvalue().to_pybytes())


def flip(store: MemoryStore, name: str, at: int) -> None:
    data = bytearray(store.read(name))
    data[at] ^= 0xFF
    store.replace(name, bytes(data))


def test_nothing_is_wrong_with_a_finished_output() -> None:
    assert check_output(make_output()) == []
    assert check_output(make_output(), deep=True) == []


def test_the_log_stale_and_temporary_objects_are_nobodys_concern() -> None:
    store = make_output()
    for name in (f"{LOG}/1.jsonl", f"{STALE}/data/a_/0.parquet.1", f"{TEMPORARY}/0.parquet.1", "report.json"):
        store.replace(name, b"whatever")
    assert check_output(store) == []


@pytest.mark.parametrize("content", [None, b"a file"])
def test_a_folder_without_a_job_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "out"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(OutputError, match=f"{JOB}: expected the output folder of a t5enc job, got none"):
        check_output(LocalStore(path))


def test_an_unfinished_output_is_said_to_be_so_and_its_shards_are_checked() -> None:
    store = make_output()
    store.delete(SUCCESS)
    assert problems(store) == {SUCCESS: "missing: the job is not finished"}
    store.replace(FIRST, b"torn")
    assert problems(store)[FIRST] == "damaged: its footer cannot be read or is another shard's"


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_shard_that_was_cut_short_is_found(keep: int) -> None:
    store = make_output()
    size = len(store.objects[FIRST])
    store.objects[FIRST] = store.objects[FIRST][:keep]
    assert problems(store) == {FIRST: f"expected {size} bytes, got {len(store.objects[FIRST])}"}


def test_a_shard_that_is_gone_is_found() -> None:
    store = make_output()
    store.delete(SECOND)
    assert problems(store) == {SECOND: "missing"}


def test_a_shard_of_the_same_size_with_another_footer_is_found() -> None:
    store = make_output()
    unit = next(iter(begin_commit(make_output(), make_job(), FILES).units.values()))
    store.objects[FIRST] = make_unit_shard(make_job(), unit, rounding=1)[1]
    assert problems(store) == {FIRST: "its footer does not say what the manifest says"}


def test_a_shard_whose_pages_were_changed_is_found_by_a_deep_check() -> None:
    store = make_output()
    table = pq.ParquetFile(pa.BufferReader(store.read(FIRST)))
    names = [table.metadata.row_group(0).column(i).path_in_schema for i in range(table.metadata.num_columns)]
    column = table.metadata.row_group(0).column(names.index("text_embedding_bytes"))
    flip(store, FIRST, column.data_page_offset + column.total_compressed_size - 1)
    assert problems(store) == {}
    assert problems(store, deep=True) == {FIRST: "its rows are not those that were written"}


def test_a_shard_that_cannot_be_decoded_is_found_by_a_deep_check() -> None:
    store = make_output()
    flip(store, FIRST, 4)
    assert problems(store) == {}
    assert problems(store, deep=True).keys() == {FIRST}


def test_a_stray_shard_is_found_and_what_becomes_of_it() -> None:
    store = make_output()
    store.replace("data/a_/000000000000-aaaaaaaaaaaaaaaa.parquet", b"late")
    assert list(problems(store).values()) == ["not in the manifest; the next run puts it aside"]


@pytest.mark.parametrize("data", [b"", b"PAR1 and no more"])
def test_a_damaged_manifest_is_found(data: bytes) -> None:
    store = make_output()
    store.replace(MANIFEST, data)
    assert problems(store)[MANIFEST].startswith("cannot be read")
    store.delete(MANIFEST)
    assert problems(store)[MANIFEST].startswith("cannot be read")


def test_a_manifest_of_another_form_is_found() -> None:
    store = make_output()
    rewrite_manifest(store, lambda table: table.drop_columns(["content"]))
    assert problems(store)[MANIFEST].startswith("cannot be read")
    rewrite_manifest(store, lambda table: table.drop_columns(["name"]))
    assert problems(store)[MANIFEST].startswith("cannot be read")


def test_a_manifest_that_lacks_a_count_is_found() -> None:
    store = make_output()
    rewrite_manifest(store, lambda table: table.drop_columns(["tokens"]))
    found = problems(store)
    assert found[SUCCESS] == f"is for another {MANIFEST}"
    assert found[FIRST] == "its footer does not say what the manifest says"


def test_a_manifest_that_lacks_a_shard_is_found() -> None:
    store = make_output()
    rewrite_manifest(store, lambda table: table.slice(1))
    found = problems(store)
    assert found[SUCCESS] == f"is for another {MANIFEST}"
    assert {problem.what for problem in check_output(store) if problem.name == FIRST} == {
        "planned, but not in the manifest",
        "not in the manifest; the next run puts it aside",
    }


def test_a_manifest_in_another_order_is_found() -> None:
    store = make_output()
    rewrite_manifest(store, lambda table: table.take([1, 0, 2]))
    assert problems(store) == {
        SUCCESS: f"is for another {MANIFEST}",
        MANIFEST: "lists its shards in another order than the plan",
    }


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"manifest_sha256": "0"}'])
def test_a_damaged_success_is_found(data: bytes) -> None:
    store = make_output()
    store.replace(SUCCESS, data)
    assert problems(store)[SUCCESS].startswith("cannot be read")


def test_a_success_of_another_job_is_found() -> None:
    store = make_output()
    store.replace(JOB, make_job(max_length=77).to_json())
    found = problems(store)
    assert found[SUCCESS] == f"is for another job than {JOB}"
    assert found[FIRST] == "in the manifest, but not planned"


def test_a_damaged_plan_is_found() -> None:
    store = make_output()
    store.objects[PLAN] = store.objects[PLAN][:-1]
    assert problems(store)[PLAN].startswith("cannot be read")
    store.delete(PLAN)
    assert problems(store)[PLAN].startswith("cannot be read")


@pytest.mark.parametrize(
    "files", [[FILES[0]], [*FILES, plan_file("c.parquet", 1)], [replace(FILES[0], num_rows=5), FILES[1]]]
)
def test_a_plan_of_other_rows_is_found(files: list[object]) -> None:
    store = make_output()
    write_plan(store, Files.of(files))  # type: ignore[arg-type]
    assert "planned" in " ".join(problems(store).values())


def test_a_job_file_that_is_not_ours_is_an_output_error() -> None:
    store = make_output()
    store.replace(JOB, json.dumps(asdict(Problem("a", "b"))).encode())
    with pytest.raises(OutputError, match=f"{JOB}: expected a t5enc job"):
        check_output(store)


def test_records_and_footers_agree_in_a_finished_output() -> None:
    store = make_output()
    rows = pq.read_table(pa.BufferReader(store.read(MANIFEST))).to_pylist()
    assert [record.to_row() for name in (FIRST, SECOND, LAST) if (record := read_footer_record(store, name))] == rows


def test_the_verdict_is_a_line_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    print_problems("out", [Problem("a[b]", "missing")])
    assert capsys.readouterr().out == "a[b]: missing\nout: 1 problem(s)\n"
    print_problems("out", [])
    assert capsys.readouterr().out == "out: plan, shards and manifest agree\n"


def test_the_verdict_does_not_tell_keys(capsys: pytest.CaptureFixture[str]) -> None:
    print_problems("s3://key:secret@bucket/out", [])
    assert capsys.readouterr().out == "s3://bucket/out: plan, shards and manifest agree\n"
