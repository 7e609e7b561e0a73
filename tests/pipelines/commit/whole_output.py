"""A job of two files, the output of a run that committed all of it, and what is noted of its units."""

from __future__ import annotations

from pipelines.commit.log import read_log
from pipelines.commit.manifest import finish
from pipelines.commit.records import Records, UnitRecord, read_footer_record
from pipelines.job import FrozenJob
from pipelines.plan.plan import Files, Units
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.small_jobs import make_job, plan_file

JOB = make_job()
FILES = Files.of([plan_file("a.parquet", 4), plan_file("b.parquet", 1)])
UNITS = Units(FILES, rows_per_unit=2, fingerprint=JOB.fingerprint)
FIRST, *_, LAST = UNITS


class CountingStore(MemoryStore):
    """Notes which objects are opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def open(self, name: str) -> object:
        self.opened.append(name)
        return super().open(name)


def committed(store: MemoryStore) -> dict[str, UnitRecord]:
    return {name: found for name in UNITS if (found := read_footer_record(store, name))}


def logged(store: MemoryStore) -> dict[str, UnitRecord]:
    return {record.name: record for record in read_log(store)}


def names(store: MemoryStore, prefix: str = "") -> list[str]:
    return [name for name, _ in store.list() if name.startswith(prefix)]


def close(store: MemoryStore, records: dict[str, UnitRecord] | None = None, job: FrozenJob = JOB) -> None:
    finish(store, note(committed(store) if records is None else records, job))


def note(records: dict[str, UnitRecord], job: FrozenJob = JOB) -> Records:
    noted = Records(Units(FILES, rows_per_unit=2, fingerprint=job.fingerprint))
    noted.update(records)
    return noted


def shorten(store: MemoryStore, name: str) -> None:
    store.objects[name] = store.objects[name][:-9]
