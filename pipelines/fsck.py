"""Checks an output folder: what its plan, its shards and its manifest say must be the same story."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipelines.job import FrozenJob
from pipelines.manifest import UnitRecord, read_footer_record
from pipelines.sinks import hash_content
from pipelines.store import Store
from t5enc.errors import OutputError
from t5enc.output import JOB, MANIFEST, PLAN, SUCCESS, is_shard


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    name: str
    what: str


def check_output(store: Store, *, deep: bool = False) -> list[Problem]:
    """Everything wrong with an output; OutputError where there is no job at all."""
    try:
        job = FrozenJob.from_json(store.read(JOB))
    except FileNotFoundError as error:
        raise OutputError(f"{JOB}: expected the output of a t5enc job, got a folder without it") from error
    sizes = dict(store.list())
    records = _read_manifest(store)
    if isinstance(records, Problem):
        return [records, *_check_footers(store, sizes)]
    return [
        *_check_success(store, job),
        *_check_shards(store, records, sizes, deep=deep),
        *_check_coverage(store, records),
        *(Problem(n, "not in the manifest") for n in sizes if is_shard(n) and n not in records),
    ]


def _read_manifest(store: Store) -> dict[str, UnitRecord] | Problem:
    """Records by name; a job that is not finished has none to check."""
    if store.size(SUCCESS) is None:
        return Problem(SUCCESS, "missing: the job is not finished")
    try:
        rows = pq.read_table(pa.BufferReader(store.read(MANIFEST))).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        return Problem(MANIFEST, f"cannot be read: {error}")
    return {row["name"]: UnitRecord(**row) for row in rows}


def _check_footers(store: Store, sizes: Mapping[str, int]) -> Iterator[Problem]:
    for name in sizes:
        if is_shard(name) and read_footer_record(store, name) is None:
            yield Problem(name, "damaged: its footer cannot be read or is another shard's")


def _check_success(store: Store, job: FrozenJob) -> Iterator[Problem]:
    try:
        success = json.loads(store.read(SUCCESS))
    except ValueError as error:
        yield Problem(SUCCESS, f"cannot be read: {error}")
        return
    if success.get("manifest_sha256") != hashlib.sha256(store.read(MANIFEST)).hexdigest():
        yield Problem(SUCCESS, f"is for another {MANIFEST}")
    if success.get("fingerprint") != job.fingerprint:
        yield Problem(SUCCESS, f"is for another job than {JOB}")


def _check_shards(
    store: Store, records: Mapping[str, UnitRecord], sizes: Mapping[str, int], *, deep: bool
) -> Iterator[Problem]:
    for name, record in records.items():
        if name not in sizes:
            yield Problem(name, "missing")
        elif sizes[name] != record.size:
            yield Problem(name, f"expected {record.size} bytes, got {sizes[name]}")
        elif read_footer_record(store, name) != record:
            yield Problem(name, "its footer does not say what the manifest says")
        elif deep:
            yield from _check_content(store, record)


def _check_content(store: Store, record: UnitRecord) -> Iterator[Problem]:
    try:
        content = hash_content(pq.read_table(pa.BufferReader(store.read(record.name))))
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        yield Problem(record.name, f"cannot be read: {error}")
        return
    if content != record.content:
        yield Problem(record.name, "its rows are not those that were written")


def _check_coverage(store: Store, records: Mapping[str, UnitRecord]) -> Iterator[Problem]:
    """Every planned row in exactly one shard."""
    try:
        plan = pq.read_table(pa.BufferReader(store.read(PLAN))).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        yield Problem(PLAN, f"cannot be read: {error}")
        return
    rows = {entry["source"]: entry["num_rows"] for entry in plan}
    ordered = sorted(records.values(), key=lambda record: (record.source, record.first_row))
    for source, group in groupby(ordered, key=lambda record: record.source):
        expected = 0
        for record in group:
            if record.first_row != expected:
                yield Problem(record.name, f"expected to begin at row {expected}, begins at {record.first_row}")
            expected = record.first_row + record.input_rows
        if expected != rows.pop(source, None):
            yield Problem(source, f"its shards end at row {expected}, which is not what was planned")
    yield from (Problem(source, f"none of its {count} rows is there") for source, count in rows.items() if count)


def print_problems(output: str, problems: list[Problem]) -> None:
    """The verdict, a problem a line."""
    console = Console(soft_wrap=True, highlight=False)
    for problem in problems:
        console.print(f"{problem.name}: {problem.what}", markup=False)
    verdict = f"{len(problems)} problem(s)" if problems else "plan, shards and manifest agree"
    console.print(f"{output}: {verdict}", markup=False)
