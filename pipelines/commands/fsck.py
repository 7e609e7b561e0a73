"""Checks an output folder: what its plan, its shards and its manifest say must be the same story."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipelines.commands.references import Problem, check_references
from pipelines.commit.ownership import find_frozen
from pipelines.commit.planned import read_plan
from pipelines.commit.records import UnitRecord, read_footer_record
from pipelines.commit.shard_file import hash_content
from pipelines.commit.strays import is_in_the_way, judge
from pipelines.job import FrozenJob
from pipelines.plan.plan import Units
from pipelines.stores.below import Below
from pipelines.stores.store import Store
from t5enc.errors import OutputError
from t5enc.storage.filesystems import hide_credentials
from t5enc.storage.layout import JOB, MANIFEST, PLAN, SHARED, SUCCESS, is_shard

FOREIGN = "no shard of a t5enc job; move it elsewhere"


def check_output(store: Store, *, deep: bool = False) -> list[Problem]:
    """Everything wrong with an output; OutputError where there is no job at all."""
    try:
        job = FrozenJob.from_json(store.read(JOB))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OutputError(f"{JOB}: expected the output folder of a t5enc job, got none that holds it") from error
    listed = dict(store.list())
    sizes = {name: size for name, size in listed.items() if is_shard(name)}
    records = _read_manifest(store)
    if isinstance(records, Problem):
        return [records, *_check_footers(store, sizes), *_check_foreign(store, listed)]
    return [
        *_check_success(store, job),
        *_check_shards(store, records, sizes, deep=deep),
        *_check_plan(store, job, records),
        *_check_strays(store, [name for name in sizes if name not in records]),
        *_check_foreign(store, listed),
        *(check_shared(store, job, records, deep=deep) if job.has_references else []),
    ]


def check_shared(store: Store, job: FrozenJob, records: Mapping[str, UnitRecord], *, deep: bool) -> Iterator[Problem]:
    """What is wrong with the output that rows refer to, and with the references if they are looked at."""
    shared = Below(store, SHARED)
    try:
        there = find_frozen(shared)
    except OutputError as error:
        yield Problem(f"{SHARED}/{JOB}", f"cannot be read: {error}")
        return
    referring = sum(record.counts.shared for record in records.values())
    if there is None and referring:
        yield Problem(SHARED, f"missing, though {referring:,} rows refer to it; run the same `t5enc encode` again")
        return
    if there is not None:
        for problem in check_output(shared, deep=deep):
            yield Problem(f"{SHARED}/{problem.name}", problem.what)
        if there.generation != job.generation:
            yield Problem(f"{SHARED}/{JOB}", f"expected generation {job.generation}, got {there.generation}")
    if deep:
        yield from check_references(store, shared if there is not None else None, records)


def _check_strays(store: Store, names: Sequence[str]) -> Iterator[Problem]:
    for name in names:
        is_ours = judge(store, name) is not None
        yield Problem(name, "not in the manifest; the next run puts it aside" if is_ours else FOREIGN)


def _check_foreign(store: Store, listed: Mapping[str, int]) -> Iterator[Problem]:
    """What readers of Parquet would stumble over, or runs refuse."""
    names = (name for name, size in listed.items() if is_in_the_way(name, size) and not is_shard(name))
    return (Problem(name, FOREIGN) for name in names if judge(store, name) is None)


def _read_manifest(store: Store) -> dict[str, UnitRecord] | Problem:
    """Records by name; a job that is not finished has none to check."""
    if store.size(SUCCESS) is None:
        return Problem(SUCCESS, "missing: the job is not finished")
    try:
        rows = pq.read_table(pa.BufferReader(store.read(MANIFEST))).to_pylist()
        return {row["name"]: UnitRecord.from_row(row) for row in rows}
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        return Problem(MANIFEST, f"cannot be read: {error}")


def _check_footers(store: Store, sizes: Mapping[str, int]) -> Iterator[Problem]:
    for name in sizes:
        if read_footer_record(store, name) is None:
            yield Problem(name, "damaged: its footer cannot be read or is another shard's")


def _check_success(store: Store, job: FrozenJob) -> Iterator[Problem]:
    try:
        success = json.loads(store.read(SUCCESS))
        digest, fingerprint = success["manifest_sha256"], success["fingerprint"]
    except (ValueError, TypeError, KeyError) as error:
        yield Problem(SUCCESS, f"cannot be read: {error}")
        return
    if digest != hashlib.sha256(store.read(MANIFEST)).hexdigest():
        yield Problem(SUCCESS, f"is for another {MANIFEST}")
    if fingerprint != job.fingerprint:
        yield Problem(SUCCESS, f"is for another job than {JOB}")


def _check_shards(
    store: Store, records: Mapping[str, UnitRecord], sizes: Mapping[str, int], *, deep: bool
) -> Iterator[Problem]:
    for name, record in records.items():
        if name not in sizes:
            yield Problem(name, "missing")
        elif sizes[name] != record.counts.size:
            yield Problem(name, f"expected {record.counts.size} bytes, got {sizes[name]}")
        elif read_footer_record(store, name) != record:
            yield Problem(name, "its footer does not say what the manifest says")
        elif deep:
            yield from _check_content(store, record)


def _check_content(store: Store, record: UnitRecord) -> Iterator[Problem]:
    try:
        content = hash_content(pq.read_table(pa.BufferReader(store.read(record.name))))
    except (OSError, pa.ArrowException, KeyError) as error:
        yield Problem(record.name, f"cannot be read: {error}")
        return
    if content != record.content:
        yield Problem(record.name, "its rows are not those that were written")


def _check_plan(store: Store, job: FrozenJob, records: Mapping[str, UnitRecord]) -> Iterator[Problem]:
    """Every planned row in exactly one shard, in order: the manifest lists the units that the plan is cut into.

    Of an output that is made of others there is no plan.
    """
    if "derived" in job.identity:
        return
    try:
        files = read_plan(store)
    except (OSError, pa.ArrowException, KeyError) as error:
        yield Problem(PLAN, f"cannot be read: {error}")
        return
    planned = dict.fromkeys(Units.of(files, job))
    yield from (Problem(name, "planned, but not in the manifest") for name in planned if name not in records)
    yield from (Problem(name, "in the manifest, but not planned") for name in records if name not in planned)
    if planned.keys() == records.keys() and list(planned) != list(records):
        yield Problem(MANIFEST, "lists its shards in another order than the plan")


def print_problems(output: str, problems: list[Problem]) -> None:
    """The verdict, a problem a line."""
    console = Console(soft_wrap=True, highlight=False)
    for problem in problems:
        console.print(f"{problem.name}: {problem.what}", markup=False)
    verdict = f"{len(problems)} problem(s)" if problems else "plan, shards and manifest agree"
    console.print(f"{hide_credentials(output)}: {verdict}", markup=False)
