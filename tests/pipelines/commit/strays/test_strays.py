"""What somebody else put into an output stays where it is, and shards are put aside in numbers only when told to."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.commands.fsck import FOREIGN, check_output
from pipelines.commit.protocol import begin_commit, commit_shard, conclude_commit
from pipelines.commit.records import read_footer_record
from pipelines.plan.units import PlannedFile
from t5enc.errors import ExitCode, OutputError
from t5enc.storage.layout import PAGE, REPORT, STALE, SUCCESS, is_shard
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.small_jobs import make_job, make_unit_shard, plan_file

SHARD = "000000000000-0123456789abcdef.parquet"
# What readers would take for a part of the output, or choke on.
FOREIGN_NAMES = ("train/00000.parquet", "data/00000.parquet", "data/notes.txt", f"data/a_/{SHARD}", "mine.parquet")
HARMLESS = ("README.md", "notes.txt", "data/.DS_Store", "data/a_/_metadata", "other/table.csv")


def make_foreign() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"url": ["http://x"]}), sink)
    return sink.getvalue().to_pybytes()


def plan(count: int, version: int = 1) -> list[PlannedFile]:
    """Files of one shard each."""
    return [plan_file(f"{number:02d}.parquet", 2, version) for number in range(count)]


def run(store: MemoryStore, files: list[PlannedFile], *, replace: bool = False, **options: bool) -> int:
    """A run to its end; how many shards it made."""
    versions = {planned.file.source: int(planned.digest) for planned in files}
    commit = begin_commit(store, make_job(), files, replace=replace, **options)
    left = list(commit.left)
    for unit in left:
        commit.records[unit.name] = commit_shard(store, *make_unit_shard(commit.frozen, unit, versions[unit.source]))
    conclude_commit(store, commit)
    return len(left)


@pytest.mark.parametrize("name", FOREIGN_NAMES)
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_foreign_files_are_refused_by_name_and_nothing_is_changed(name: str, is_first: bool, overwrite: bool) -> None:
    store = MemoryStore()
    if not is_first:
        run(store, plan(2))
    store.objects[name] = make_foreign()
    before = dict(store.objects)
    with pytest.raises(
        OutputError, match=f"holds what no t5enc job put there: {name}; choose another folder"
    ) as refused:
        run(store, plan(2), overwrite=overwrite)
    assert refused.value.exit_code == ExitCode.REFUSED
    assert store.objects == before
    if not is_first:
        assert {(problem.name, problem.what) for problem in check_output(store)} == {(name, FOREIGN)}


def test_of_many_foreign_files_some_are_named() -> None:
    store = MemoryStore()
    store.objects |= {f"{number}.parquet": make_foreign() for number in range(5)}
    with pytest.raises(OutputError, match=r"there: 0.parquet, 1.parquet, 2.parquet and 2 more;"):
        run(store, plan(1))


def test_a_foreign_file_that_comes_while_a_run_works_stays_and_ends_it() -> None:
    store = MemoryStore()
    commit = begin_commit(store, make_job(), plan(1))
    for unit in commit.left:
        commit.records[unit.name] = commit_shard(store, *make_unit_shard(commit.frozen, unit))
    store.objects["data/late.parquet"] = make_foreign()
    with pytest.raises(OutputError, match=r"data/late.parquet"):
        conclude_commit(store, commit)
    assert store.objects["data/late.parquet"] == make_foreign()


@pytest.mark.parametrize("name", [SUCCESS, REPORT, PAGE])
def test_a_folder_with_files_that_a_job_would_replace_is_refused(name: str) -> None:
    store = MemoryStore()
    store.objects[name] = b"somebody's"
    with pytest.raises(OutputError, match=name):
        run(store, plan(1))
    assert store.objects == {name: b"somebody's"}


def test_what_is_in_nobodys_way_stays() -> None:
    store = MemoryStore()
    store.objects |= dict.fromkeys(HARMLESS, b"somebody's")
    run(store, plan(1))
    assert all(store.objects[name] == b"somebody's" for name in HARMLESS)
    assert check_output(store) == []


def test_a_torn_shard_that_is_not_planned_is_put_aside() -> None:
    store = MemoryStore()
    run(store, plan(1))
    store.objects[f"data/x_/{SHARD}"] = b"PAR1 torn"
    run(store, plan(1))
    assert [data for name, data in store.objects.items() if name.startswith(STALE)] == [b"PAR1 torn"]


@pytest.mark.parametrize("changed", [True, False])
def test_more_than_a_tenth_is_put_aside_only_when_told_to(changed: bool) -> None:
    store = MemoryStore()
    run(store, plan(10))
    files = [*plan(2, version=2), *plan(10)[2:]] if changed else plan(10)[2:]
    before = dict(store.objects)
    counts = "2 of inputs that have changed, 0" if changed else "0 of inputs that have changed, 2"
    with pytest.raises(OutputError, match=rf"^2 of the 10 .*: {counts} of .*\(00.parquet, 01.parquet\).*--replace"):
        run(store, files)
    assert store.objects == before
    assert run(store, files, replace=True) == (2 if changed else 0)
    assert len([name for name in store.objects if name.startswith(STALE)]) == 2
    assert check_output(store, deep=True) == []


def test_a_tenth_is_put_aside_without_a_word() -> None:
    store = MemoryStore()
    run(store, plan(10))
    assert run(store, [*plan(1, version=2), *plan(10)[1:]]) == 1
    assert len([name for name in store.objects if name.startswith(STALE)]) == 1


def test_further_files_put_nothing_aside() -> None:
    store = MemoryStore()
    run(store, plan(2))
    assert run(store, plan(5)) == 3


def test_a_new_generation_needs_no_other_word_not_even_when_it_is_gone_on_with() -> None:
    store = MemoryStore()
    run(store, plan(3))
    commit = begin_commit(store, make_job(), plan(3), overwrite=True, replace=False)
    unit = commit.left[0]
    commit_shard(store, *make_unit_shard(commit.frozen, unit))
    assert run(store, plan(3)) == 2
    assert len([name for name in store.objects if is_shard(name)]) == 3


def test_shards_of_an_input_that_cannot_be_read_stay_and_no_word_is_needed() -> None:
    store = MemoryStore()
    run(store, plan(3))
    before = dict(store.objects)
    begin_commit(store, make_job(), plan(2), replace=False, unreadable=["02.parquet"])
    del before[SUCCESS]
    assert store.objects == before


@pytest.mark.parametrize("unreadable", [(), ("03.parquet",)])
def test_before_the_first_unit_shards_of_changed_and_dropped_inputs_are_put_aside(unreadable: tuple[str, ...]) -> None:
    store = MemoryStore()
    run(store, plan(4))
    old = set(store.objects)
    commit = begin_commit(store, make_job(), [*plan(1, version=2), *plan(2)[1:]], unreadable=unreadable)
    left = {name for name in old & set(store.objects) if is_shard(name)}
    assert {read_footer_record(store, name).source for name in left} == {"01.parquet", *unreadable}  # type: ignore[union-attr]
    assert [unit.source for unit in commit.left] == ["00.parquet"]
    assert SUCCESS not in store.objects


def test_an_input_that_cannot_be_read_is_no_word_for_dropping_others() -> None:
    store = MemoryStore()
    run(store, plan(4))
    before = dict(store.objects)
    with pytest.raises(OutputError, match=r"^1 of the 4 shards .* 1 of inputs that are no longer given \(02.parquet\)"):
        begin_commit(store, make_job(), plan(2), replace=False, unreadable=["03.parquet"])
    assert store.objects == before


@pytest.mark.parametrize("copy", [f"backup/{SHARD}", "backup/copy.parquet", "copy.parquet"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_copy_of_a_shard_outside_of_data_stays_where_it_is(copy: str, overwrite: bool) -> None:
    store = MemoryStore()
    run(store, plan(1))
    name = next(filter(is_shard, store.objects))
    copy = copy.replace(SHARD, name.rpartition("/")[2])
    shard = store.objects[copy] = store.objects[name]
    run(store, plan(2), overwrite=overwrite)
    assert store.objects[copy] == shard
    assert check_output(store, deep=True) == []


def test_a_copy_of_a_shard_in_data_is_put_aside_and_no_word_is_needed() -> None:
    store = MemoryStore()
    run(store, plan(1))
    name = next(filter(is_shard, store.objects))
    store.objects[f"data/backup/{name.rpartition('/')[2]}"] = store.objects[name]
    assert run(store, plan(1)) == 0
    assert len([name for name in store.objects if name.startswith(f"{STALE}/data/backup/")]) == 1
    assert check_output(store, deep=True) == []


def test_an_output_may_lie_within_anothers_folder() -> None:
    outer, inner = MemoryStore(), MemoryStore()
    run(inner, plan(2))
    outer.objects |= {f"inner/{name}": data for name, data in inner.objects.items()}
    run(outer, plan(2, version=2))
    assert {
        name.removeprefix("inner/"): data for name, data in outer.objects.items() if "inner/" in name
    } == inner.objects
