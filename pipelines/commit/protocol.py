"""The commit protocol: what a run does to its output before the first unit, with each, and after the last.

Any step may be the last one: the same command, run again, goes on from whatever was left. Shards are created and
never replaced, so it does not matter how many writers there are, nor how late one of them is. `_SUCCESS` is
removed before anything else that it vouches for is touched, and written when all of it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from pipelines.commit.manifest import finish, read_records
from pipelines.commit.ownership import check_owner, freeze
from pipelines.commit.records import Records, UnitRecord, read_footer_record
from pipelines.commit.strays import check_place
from pipelines.job import FrozenJob
from pipelines.plan.plan import Files, Selection, Units
from pipelines.plan.units import PlannedFile
from pipelines.stores.store import Store
from t5enc.errors import OutputError
from t5enc.storage.layout import JOB, SUCCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a run has to commit, and the records of what is committed."""

    frozen: FrozenJob
    records: Records

    @property
    def units(self) -> Units:
        """Every unit of the plan by name, in input order."""
        return self.records.units

    @property
    def left(self) -> Selection:
        """Units without a record."""
        return self.units.select(self.records.left)


def begin_commit(
    store: Store,
    job: FrozenJob,
    files: Files | Iterable[PlannedFile],
    *,
    overwrite: bool = False,
    retry_errors: bool = False,
    replace: bool = True,
    recheck: bool = False,
    unreadable: Collection[str] = (),
    is_within: bool = False,
) -> Commit:
    """Freeze the job, or find it frozen, and find out what earlier runs committed.

    If anything is left to do, or if some inputs are `unreadable`, the output counts as unfinished from here on, and
    `data/` holds no row twice: what is outside the plan is put aside. Only the shards of unreadable inputs stay.
    OutputError, and nothing changed, where there are foreign files, and where more than a tenth of the shards would be
    put aside unless that is meant (`replace`); and where a job `is_within` another that a later generation of it has
    replaced.
    """
    if overwrite or store.size(JOB) is None:
        check_place(store)
    frozen = freeze(store, job, overwrite=overwrite)
    if is_within and frozen.generation != job.generation:  # of a later one: what is there is another run's
        raise OutputError(f"{JOB}: another run has overwritten this output while this one worked")
    units = Units.of(files if isinstance(files, Files) else Files.of(files), frozen)
    may_replace = replace or overwrite
    records = read_records(
        store,
        units,
        retry_errors=retry_errors,
        may_replace=may_replace,
        recheck=recheck,
        unreadable=frozenset(unreadable),
    )
    commit = Commit(frozen=frozen, records=records)
    if commit.left or unreadable:
        store.delete(SUCCESS)
    return commit


def commit_shard(store: Store, record: UnitRecord, data: Any) -> UnitRecord:
    """Store a unit's shard, unless another writer was first; the record of what is there then."""
    if store.create(record.name, data):
        return record.with_size(len(data))
    return read_footer_record(store, record.name) or record


def conclude_commit(store: Store, commit: Commit, check: Callable[[], None] = lambda: None) -> None:
    """End a job of which every unit has a record; OutputError where another run has overwritten it meanwhile.

    `check` is called wherever that is looked at, and raises where something else stands in the way.
    """

    def check_both() -> None:
        check_owner(store, commit.frozen)
        check()

    finish(store, commit.records, check=check_both)
