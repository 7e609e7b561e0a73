"""Two drivers over one output, whose operations interleave in every way, and which may be killed at any."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.commands.fsck import check_output
from pipelines.commit.log import append_log
from pipelines.commit.protocol import begin_commit, commit_shard, conclude_commit
from pipelines.plan.units import PlannedFile
from pipelines.stores.store import Store
from t5enc.errors import DriverError
from t5enc.storage.layout import STALE, is_shard
from tests.pipelines.commit.drivers import SOURCES, Killed, Mortal, encode, list_finished
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.commit.turns import take_turns
from tests.pipelines.small_jobs import make_job, plan_file, read_keys_of


@settings(database=None)
@given(
    order=st.lists(st.integers(0, 1), max_size=80),
    killed_after=st.tuples(*[st.none() | st.integers(0, 30)] * 2),
    committed=st.integers(0, 3),
    roundings=st.permutations([0, 1]),
)
def test_two_drivers_of_one_job_may_interleave_at_every_operation(
    order: list[int], killed_after: tuple[int | None, ...], committed: int, roundings: list[int]
) -> None:
    store = MemoryStore()
    files = [plan_file(SOURCES[0], 4), plan_file(SOURCES[1], 2)]
    earlier = begin_commit(store, make_job(), files)
    for unit in list(earlier.units.values())[:committed]:
        commit_shard(store, *encode(earlier.frozen, unit, "1"))

    def check() -> None:
        names = list_finished(store)
        assert names is None or (names == list(earlier.units) and set(names) <= set(store.objects))

    users = [
        partial(run_to_the_end, files=files, killed_after=after, rounding=rounding)
        for after, rounding in zip(killed_after, roundings, strict=True)
    ]
    errors = take_turns(store, users, iter(order), check)
    assert all(isinstance(error, Killed | None) for error in errors)
    if errors != [None, None]:
        run_to_the_end(store, files=files)
    assert list_finished(store) == list(earlier.units)
    assert check_output(store, deep=True) == []
    assert not any(name.startswith(STALE) for name in store.objects)


@settings(database=None)
@given(
    order=st.lists(st.integers(0, 1), max_size=80),
    killed_after=st.tuples(*[st.none() | st.integers(0, 30)] * 2),
    finished=st.booleans(),
    overwrite=st.booleans(),
)
def test_two_drivers_of_changed_inputs_never_show_a_row_as_it_was_and_as_it_is(
    order: list[int], killed_after: tuple[int | None, ...], finished: bool, overwrite: bool
) -> None:
    store = MemoryStore()
    old, files = plan_file(SOURCES[0], 4), [plan_file(SOURCES[0], 4, version=2), plan_file(SOURCES[1], 2)]
    earlier = begin_commit(store, make_job(), [old, files[1]])
    for unit in earlier.left:
        earlier.records[unit.name] = commit_shard(store, *encode(earlier.frozen, unit, "1"))
    if finished:
        conclude_commit(store, earlier)
    if overwrite:
        begin_commit(store, make_job(), files, overwrite=True)

    def check() -> None:
        shards = [data for name, data in store.objects.items() if is_shard(name)]
        rows = [row for shard in shards for row in read_keys_of(shard)]
        assert len(set(rows)) == len(rows)

    users = [partial(run_to_the_end, files=files, killed_after=after) for after in killed_after]
    errors = take_turns(store, users, iter(order), check)
    assert all(isinstance(error, Killed | None) for error in errors)
    run_to_the_end(store, files=files)
    assert len(list_finished(store) or ()) == 3
    assert check_output(store, deep=True) == []


@pytest.mark.parametrize("dies_again", [False, True])
@pytest.mark.parametrize("before", range(20))
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)], ids=["some", "all"])
def test_a_run_may_end_while_another_begins_to_redo_what_it_vouches_for(
    step: int, before: int, dies_again: bool
) -> None:
    """So many operations of the one, then some of the other, which is killed there; then the rest of the first."""
    files = [plan_file(SOURCES[0], 4), plan_file(SOURCES[1], 2)]
    for killed_after in range(before % step, 25, step):
        store = MemoryStore()
        earlier = begin_commit(store, make_job(), files)
        for number, unit in enumerate(earlier.left):
            record, shard = encode(earlier.frozen, unit, "1", dies=number == 0)
            earlier.records[unit.name] = commit_shard(store, record, shard)
        again = partial(run_to_the_end, files=files, killed_after=killed_after, dies=dies_again, retry_errors=True)
        order = iter([0] * before + [1] * (killed_after + 1))
        errors = take_turns(store, [partial(conclude_commit, commit=earlier), again], order, lambda: None)
        assert isinstance(errors[0], DriverError | None)
        assert isinstance(errors[1], DriverError | Killed | None)
        if list_finished(store) is not None:
            assert check_output(store, deep=True) == []
        run_to_the_end(store, files=files)
        assert list_finished(store) is not None
        assert check_output(store, deep=True) == []


@pytest.mark.parametrize("rounding", [0, 1])
def test_a_run_ends_over_what_another_has_redone_and_finished_though_a_caption_died_again(rounding: int) -> None:
    """Nobody is at work on what died any more: another run has vouched for the same shards."""
    store = MemoryStore()
    files = [plan_file(SOURCES[0], 4), plan_file(SOURCES[1], 2)]
    earlier = begin_commit(store, make_job(), files)
    for number, unit in enumerate(earlier.left):
        earlier.records[unit.name] = commit_shard(store, *encode(earlier.frozen, unit, "1", dies=number == 0))
    run_to_the_end(store, files=files, dies=True, rounding=rounding, retry_errors=True)
    finished = dict(store.objects)
    conclude_commit(store, earlier)
    assert store.objects == finished


def run_to_the_end(
    store: Store,
    *,
    files: list[PlannedFile],
    killed_after: int | None = None,
    rounding: int = 0,
    dies: bool = False,
    **options: Any,
) -> None:
    """A whole run of the usual job."""
    store = cast(Store, Mortal(store, killed_after))
    commit = begin_commit(store, make_job(), files, **options)
    for unit in commit.left:
        record, shard = encode(commit.frozen, unit, "1", rounding=rounding, dies=dies)
        commit.records[unit.name] = commit_shard(store, record, shard)
        append_log(store, [commit.records[unit.name]])
    conclude_commit(store, commit)
