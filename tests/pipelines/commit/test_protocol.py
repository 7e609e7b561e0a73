"""The commit protocol, as an executable specification: what must hold whatever dies, and whenever.

Drivers begin, commit units and conclude with the functions that the pipeline uses, over a store in memory. Any of
them may be killed before any single operation; dead ones still write; inputs change; shards are damaged.
"""

from __future__ import annotations

import json
from itertools import count
from typing import Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipelines.commands.fsck import check_output
from pipelines.commit.log import append_log
from pipelines.commit.protocol import begin_commit, commit_shard, conclude_commit
from pipelines.commit.records import UnitRecord, read_footer_record
from pipelines.job import FrozenJob
from pipelines.plan.density import ROWS, Density
from pipelines.plan.units import PlannedFile, Unit
from pipelines.stores.store import Store
from t5enc.errors import DriverError, JobMismatchError, OutputError
from t5enc.storage.layout import JOB, LOG, SUCCESS, is_shard
from tests.pipelines.commit.drivers import (
    SOURCES,
    Driver,
    Killed,
    Mortal,
    check_what_fsck_finds,
    encode,
    find_beside,
    find_job,
    is_to_do,
    list_damageable,
    list_finished,
    repeat_alike,
)
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.small_jobs import make_job, plan_file, read_captions_of


class Protocol(RuleBasedStateMachine):
    """Drivers, zombies, changing inputs and damage over one output."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.files: dict[str, PlannedFile] = {}
        self.versions = map(str, count(1))
        self.drivers: list[Driver] = []
        self.zombies: list[tuple[str, bytes]] = []
        self.published: set[bytes] = set()
        self.finished: Driver | None = None
        self.vouched: dict[str, bytes] = {}
        self.checked: dict[str, bytes] = {}
        self.same = repeat_alike()

    def teardown(self) -> None:
        self.same.close()

    @initialize(rows=st.integers(1, 5), dense=st.integers(0, 3))
    def lay_out_inputs(self, rows: int, dense: int) -> None:
        self._put_file(SOURCES[0], rows, dense)
        self._put_file(SOURCES[1], 2)

    def _put_file(self, source: str, rows: int, dense: int = 0) -> None:
        """The first rows of a file may be so dense that each is a unit."""
        dense = min(dense, rows)
        densities = (Density(rows=dense, captions=2 * ROWS), Density(rows=rows - dense)) if dense else ()
        self.files[source] = plan_file(source, rows, int(next(self.versions)), densities=densities)

    @rule(
        max_length=st.sampled_from([512, 512, 512, 77]),
        overwrite=st.sampled_from([False, False, False, True]),
        retry_errors=st.booleans(),
        unreadable=st.sampled_from([(), (), *[(source,) for source in SOURCES]]),
        killed_after=st.none() | st.integers(0, 25),
    )
    def begin(self, max_length: int, killed_after: int | None, **options: Any) -> None:
        """A driver starts on the inputs as they are now, of which it may not be able to read one."""
        self._begin(make_job(max_length=max_length, captions_per_shard=2), killed_after, **options)

    @rule(rounding=st.integers(0, 1), retry_errors=st.booleans(), killed_after=st.none() | st.integers(0, 25))
    def run_again(self, rounding: int, retry_errors: bool, killed_after: int | None) -> None:
        """The same command once more, to its end, where it may be killed."""
        wanted = find_job(self.store) or make_job(captions_per_shard=2)
        driver = self._begin(wanted, retry_errors=retry_errors)
        assert driver is not None
        self._commit_all(driver, rounding)
        append_log(self.store, driver.unlogged)
        self._conclude(driver, killed_after)

    def _begin(
        self,
        wanted: FrozenJob,
        killed_after: int | None = None,
        *,
        overwrite: bool = False,
        retry_errors: bool = False,
        unreadable: tuple[str, ...] = (),
    ) -> Driver | None:
        before, listed, found = dict(self.store.objects), list_finished(self.store), find_job(self.store)
        is_other = found is not None and found.identity != wanted.identity
        files = [planned for source, planned in sorted(self.files.items()) if source not in unreadable]
        options: Any = {"overwrite": overwrite, "retry_errors": retry_errors, "unreadable": unreadable}
        try:
            commit = begin_commit(self._mortal(killed_after), wanted, files, **options)
        except Killed:
            return None
        except JobMismatchError as error:
            assert is_other
            assert not overwrite
            assert error.differences.keys() == {"max_length"}  # noqa: PT017
            assert self.store.objects == before
            return None
        assert overwrite or not is_other
        left = {name for name in commit.units if is_to_do(before.get(name), retry_errors=retry_errors)}
        assert {unit.name for unit in commit.left} == left, "exactly what is not committed is left to encode"
        if overwrite and found is not None:
            assert left == set(commit.units), "a new generation encodes everything anew"
        if left or unreadable:
            assert list_finished(self.store) is None, "an output with work left is not finished"
            assert find_beside(self.store, commit) <= set(unreadable), "no row is in data/ twice before the first unit"
        elif not overwrite:
            assert list_finished(self.store) == listed, "a run with nothing to do leaves a finished output finished"
        driver = Driver(commit, {planned.file.source: planned.digest for planned in files}, not left, not unreadable)
        self.drivers.append(driver)
        return driver

    def _mortal(self, killed_after: int | None) -> Store:
        """The store for a driver, which at no moment touches what `_SUCCESS` vouches for."""
        before = dict(self.store.objects)

        def check() -> None:
            for name in list_finished(self.store) or ():
                assert self.store.objects.get(name) == before.get(name)
            self._check_owner()

        return cast(Store, Mortal(self.store, killed_after, check))

    @precondition(lambda self: any(driver.commit.left for driver in self.drivers))
    @rule(
        data=st.data(), rounding=st.integers(0, 1), dies=st.booleans(), fate=st.sampled_from(["told", "lost", "late"])
    )
    def commit_unit(self, data: st.DataObject, rounding: int, dies: bool, fate: str) -> None:
        """A worker encodes a unit: its driver hears of it, or dies first, or the worker itself is late."""
        driver = data.draw(st.sampled_from([d for d in self.drivers if d.commit.left]))
        unit = data.draw(st.sampled_from(driver.commit.left))
        record, shard = encode(driver.commit.frozen, unit, driver.versions[unit.source], dies=dies, rounding=rounding)
        if fate == "late":
            self.zombies.append((unit.name, shard))
            return
        self._work(driver, unit, record, shard, is_told=fate == "told")

    @precondition(lambda self: any(driver.commit.left for driver in self.drivers))
    @rule(data=st.data(), rounding=st.integers(0, 1))
    def commit_all(self, data: st.DataObject, rounding: int) -> None:
        """A driver's workers finish all that is left."""
        self._commit_all(data.draw(st.sampled_from([d for d in self.drivers if d.commit.left])), rounding)

    def _commit_all(self, driver: Driver, rounding: int) -> None:
        for unit in driver.commit.left:
            record, shard = encode(driver.commit.frozen, unit, driver.versions[unit.source], rounding=rounding)
            self._work(driver, unit, record, shard, is_told=True)

    def _work(self, driver: Driver, unit: Unit, record: UnitRecord, shard: bytes, *, is_told: bool) -> None:
        """What SpanWorker does with a unit: nothing where its shard is there already."""
        found = read_footer_record(self.store, unit.name) if self.store.size(unit.name) is not None else None
        if found is None:
            self._publish(unit.name, shard)
            found = commit_shard(self.store, record, shard)
        if is_told:
            driver.commit.records[unit.name] = found
            driver.unlogged.append(found)

    def _publish(self, name: str, shard: bytes) -> None:
        if name not in self.store.objects:
            self.published.add(shard)

    @precondition(lambda self: self.zombies)
    @rule(data=st.data())
    def publish_late(self, data: st.DataObject) -> None:
        """A worker that nobody knows of any more stores its shard."""
        name, shard = self.zombies.pop(data.draw(st.integers(0, len(self.zombies) - 1)))
        self._publish(name, shard)
        self.store.create(name, shard)

    @precondition(lambda self: self.drivers)
    @rule(data=st.data())
    def note_in_log(self, data: st.DataObject) -> None:
        driver = data.draw(st.sampled_from(self.drivers))
        append_log(self.store, driver.unlogged)
        driver.unlogged.clear()

    @precondition(lambda self: self.drivers)
    @rule(data=st.data())
    def kill_driver(self, data: st.DataObject) -> None:
        self.drivers.remove(data.draw(st.sampled_from(self.drivers)))

    @precondition(lambda self: any(driver.is_done for driver in self.drivers))
    @rule(data=st.data(), killed_after=st.none() | st.integers(0, 25))
    def conclude(self, data: st.DataObject, killed_after: int | None) -> None:
        """A driver with nothing left to do ends its job."""
        self._conclude(data.draw(st.sampled_from([d for d in self.drivers if d.is_done])), killed_after)

    def _conclude(self, driver: Driver, killed_after: int | None) -> None:
        self.drivers.remove(driver)
        before, listed, names = dict(self.store.objects), list_finished(self.store), list(driver.commit.units)
        is_untouched = listed == names and all(before.get(name) == self.vouched[name] for name in names)
        records = list(driver.commit.records.values())
        try:
            conclude_commit(self._mortal(killed_after), driver.commit)
        except Killed:
            pass
        except DriverError:
            assert any(len(before.get(r.name, b"")) != r.counts.size or r.counts.died for r in records)
            assert self.store.objects == before
        except OutputError:
            assert FrozenJob.from_json(before[JOB]).fingerprint != driver.commit.frozen.fingerprint
            assert self.store.objects == before
        else:
            assert list_finished(self.store) == names
            assert {name for name in self.store.objects if is_shard(name)} == set(names)
            assert check_output(self.store, deep=True) == []
        if driver.had_nothing_to_do and is_untouched:
            assert list_finished(self.store) == names, "concluding once more leaves a finished output finished"
        if self.store.objects.get(SUCCESS) not in (None, before.get(SUCCESS)):
            self.finished = driver
            self.vouched = {name: self.store.objects[name] for name in names}

    @rule(data=st.data(), rows=st.integers(0, 5), dense=st.integers(0, 3))
    def put_input(self, data: st.DataObject, rows: int, dense: int) -> None:
        """A file is added, or replaced by another one."""
        self._put_file(data.draw(st.sampled_from(SOURCES)), rows, dense)

    @precondition(lambda self: len(self.files) > 1)
    @rule(data=st.data())
    def remove_input(self, data: st.DataObject) -> None:
        del self.files[data.draw(st.sampled_from(sorted(self.files)))]

    @precondition(lambda self: list_damageable(self.store))
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        """A shard, a piece of the log, the plan, the manifest or `_SUCCESS` is cut short."""
        name = data.draw(st.sampled_from(list_damageable(self.store)))
        whole = self.store.objects[name]
        self.published.discard(whole)
        self.store.objects[name] = whole[: len(whole) // 2]

    @precondition(lambda self: list_damageable(self.store) and not self.drivers)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Someone removes an object by hand, while nothing runs."""
        name = data.draw(st.sampled_from(list_damageable(self.store)))
        if not name.startswith(f"{LOG}/"):
            self.published.discard(self.store.objects.pop(name))
            self.zombies = [zombie for zombie in self.zombies if zombie[0] != name]

    @invariant()
    def readers_see_the_whole_plan_of_the_run_that_finished(self) -> None:
        names = list_finished(self.store)
        if names is None:
            return
        assert self.finished is not None
        units = self.finished.commit.units
        assert names == list(units)
        self._check_owner()
        for name, unit in units.items():
            shard = self.store.objects.get(name)
            if shard is not None and read_captions_of(shard) is not None:
                assert read_captions_of(shard) == self.finished.expected_captions(unit)

    def _check_owner(self) -> None:
        """`_SUCCESS` is that of the job."""
        frozen = find_job(self.store)
        if list_finished(self.store) is not None:
            assert frozen is not None
            assert json.loads(self.store.read(SUCCESS))["fingerprint"] == frozen.fingerprint

    @invariant()
    def nothing_published_is_lost(self) -> None:
        assert self.published <= set(self.store.objects.values())

    @invariant()
    def fsck_finds_what_is_wrong_and_nothing_else(self) -> None:
        if JOB not in self.store.objects or self.store.objects == self.checked:
            return
        self.checked = dict(self.store.objects)
        check_what_fsck_finds(self.store, self.vouched)


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(stateful_step_count=30, database=None, suppress_health_check=list(HealthCheck))
