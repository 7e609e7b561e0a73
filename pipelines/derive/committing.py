"""Pieces of outputs into an output of their own, of which a killed run leaves what the next one goes on with.

No plan is noted, for nothing was encoded: what belongs in the output is in its manifest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

import pyarrow as pa
from pyarrow.fs import LocalFileSystem

from pipelines.commit.card import write_card
from pipelines.commit.counts import Counts
from pipelines.commit.log import move_aside
from pipelines.commit.manifest import choose_unwanted, is_finished, make_success
from pipelines.commit.null import write_null
from pipelines.commit.ownership import check_owner, freeze
from pipelines.commit.planned import to_parquet
from pipelines.commit.protocol import commit_shard
from pipelines.commit.records import SCHEMA, UnitRecord, read_footer_record
from pipelines.commit.strays import check_place, is_in_the_way
from pipelines.derive.origins import Origin, find_null, open_origin
from pipelines.derive.pieces import Piece
from pipelines.derive.rewriting import rewrite
from pipelines.job import FrozenJob
from pipelines.stores.linking import is_linked, link_or_copy
from pipelines.stores.store import Store, open_store
from t5enc.errors import JobMismatchError, OutputError
from t5enc.storage.filesystems import find_filesystem, hide_credentials
from t5enc.storage.layout import DATA, JOB, MANIFEST, REPORT, SUCCESS

SHOWN = 3
# What of a command its output remembers, besides what it was made of.
TOLD = {"command": "command", "where": "condition", "columns": "columns", "names": "names of sources"}
Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """What a derived output holds: rows, and its shards by whether their bytes lie there once more.

    `size` is of all shards, `written` of those that are no links.
    """

    rows: int
    linked: int
    copied: int
    rewritten: int
    size: int
    written: int


def write_derived(
    output: str, origins: Sequence[Origin], pieces: Sequence[Piece], job: FrozenJob, *, tell: Tell = lambda _, __: None
) -> Derived:
    """Write an output of pieces, or go on with it, or find it finished; `tell` is given shards that are there, and all.

    OutputError or JobMismatchError, and nothing changed, for an output that is taken.
    """
    check_apart(output, origins)
    store = open_store(output)
    named = {piece.name_in(job): piece for piece in pieces}
    assert len(named) == len(pieces)
    is_new = store.size(JOB) is None
    if is_new:
        check_place(store)
        _refuse_others(store, named, job)
    job = _freeze(store, job, output)
    finished = _find_finished(output, store, named, job)
    if finished is not None:
        return _count(store, named, finished, job)
    if not is_new:
        _refuse_others(store, named, job)
    unnamed = store.list_unnamed()
    if job.recipe is not None:
        write_null(store, job, find_null(origins))
    records = []
    for name in sorted(named):
        records.append(_commit(store, named[name], job))
        tell(len(records), len(named))
    derived = _count(store, named, records, job)
    _finish(store, job, records, derived)
    store.sweep(choose_unwanted(named, unnamed))
    return derived


def check_apart(output: str, origins: Sequence[Origin]) -> None:
    """OutputError for an output within one of those that it is made of, or the other way round."""
    filesystem, root = find_filesystem(output)
    root = _follow(filesystem, root)
    for origin in origins:
        there = _follow(origin.folder.filesystem, origin.folder.root)
        if origin.folder.filesystem.equals(filesystem) and (
            f"{root}/".startswith(f"{there}/") or f"{there}/".startswith(f"{root}/")
        ):
            raise OutputError(f"output: expected a folder apart from {origin.shown}, got {output}")


def _follow(filesystem: Any, root: str) -> str:
    """Where a folder is, behind symbolic links."""
    return os.path.realpath(root) if isinstance(filesystem, LocalFileSystem) else root


def _freeze(store: Store, job: FrozenJob, output: str) -> FrozenJob:
    try:
        return freeze(store, job)
    except JobMismatchError as error:
        raise JobMismatchError(
            f"{hide_credentials(output)}: expected an output of this very command, got another one's; choose another "
            f"folder:\n{_tell_apart(error.differences)}",
            error.differences,
        ) from error


def _tell_apart(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """A line for each part of two commands that differs."""
    there, here = differences.get("derived", (None, None))
    if there is None or here is None:
        return "  " + ", ".join(differences)
    lines = [
        f"  {shown}: there {there.get(name)!r}, here {here.get(name)!r}"
        for name, shown in TOLD.items()
        if there.get(name) != here.get(name)
    ]
    changed = ["  inputs: others, in another order, or changed since"] if there["of"] != here["of"] else []
    return "\n".join(lines + changed)


def _find_finished(
    output: str, store: Store, named: Mapping[str, Piece], job: FrozenJob
) -> Sequence[UnitRecord] | None:
    """The records of an output that is this job's, finished and whole; None, and no `_SUCCESS`, for one that is not.

    OutputError where it holds other rows.
    """
    try:
        found = open_origin(output)
    except OutputError:
        return None
    if found.job.fingerprint != job.fingerprint:
        return None
    if {record.name for record in found.records} != set(named):
        raise OutputError(
            f"{found.shown}: expected the rows of this command, got those that its condition chose another time: "
            f"{job.identity['derived'].get('where')}; use one that always chooses the same. Nothing was changed"
        )
    sizes = dict(store.list(DATA))
    if all(sizes.get(record.name) == record.counts.size for record in found.records):
        return found.records
    store.delete(SUCCESS)
    return None


def _refuse_others(store: Store, named: Mapping[str, Piece], job: FrozenJob) -> None:
    """Whatever readers would take for a shard is one of this output's."""
    others = [name for name, size in store.list() if is_in_the_way(name, size) and name not in named]
    if others:
        more = f" and {len(others) - SHOWN:,} more" if len(others) > SHOWN else ""
        where = job.identity["derived"].get("where")
        chosen = "" if where is None else f" ({where} must choose the same whenever it is run)"
        raise OutputError(
            f"the output holds what this command did not put there: {', '.join(sorted(others)[:SHOWN])}{more}; move "
            f"that elsewhere, or choose another folder{chosen}. Nothing was changed"
        )


def _commit(store: Store, piece: Piece, job: FrozenJob) -> UnitRecord:
    """The record of a piece's shard, which is there afterwards."""
    name = piece.name_in(job)
    record = read_footer_record(store, name)
    if record is not None:
        return record
    if store.size(name) is not None:
        store.delete(SUCCESS)
        move_aside(store, [name])
    _check_sound(piece)
    if not piece.is_as_it_was(job):
        record, data = rewrite(piece, job)
        return commit_shard(store, record, data)
    link_or_copy(piece.origin.store, name, store, name)
    return piece.record


def _check_sound(piece: Piece) -> None:
    found = read_footer_record(piece.origin.store, piece.record.name)
    if found != piece.record:
        raise OutputError(piece.origin.explain(piece.record))


def _count(store: Store, named: dict[str, Piece], records: Sequence[UnitRecord], job: FrozenJob) -> Derived:
    """How many shards lie there in which way, whichever run put them there."""
    linked, copied, rewritten = [], [], []
    for record in records:
        piece = named[record.name]
        if not piece.is_as_it_was(job):
            rewritten.append(record.counts.size)
        elif is_linked(piece.origin.store, store, record.name):
            linked.append(record.counts.size)
        else:
            copied.append(record.counts.size)
    return Derived(
        rows=sum(record.counts.captions for record in records),
        linked=len(linked),
        copied=len(copied),
        rewritten=len(rewritten),
        size=sum(linked + copied + rewritten),
        written=sum(copied + rewritten),
    )


def _finish(store: Store, job: FrozenJob, records: Sequence[UnitRecord], derived: Derived) -> None:
    """Card, report, manifest and `_SUCCESS`; one that says all this already is left as it is."""
    totals = {"shards": len(records)} | asdict(reduce(add, (record.counts for record in records), Counts()))
    batch = pa.RecordBatch.from_pylist([record.to_row() for record in records], SCHEMA)
    manifest = to_parquet([batch], SCHEMA.with_metadata({"fingerprint": job.fingerprint}))
    check_owner(store, job)
    write_card(store, job, totals)
    if is_finished(store, manifest):
        return
    store.delete(SUCCESS)
    report = {"derived": job.identity["derived"], "is_finished": True, "totals": totals, "shards": asdict(derived)}
    store.replace(REPORT, json.dumps(report, indent=2).encode())
    store.replace(MANIFEST, manifest)
    store.replace(SUCCESS, make_success(manifest, job.fingerprint, totals))
