"""Moves an output of format 1 to the places of format 2. Killed at any moment, it goes on when it is run again.

Until `_job.json` is deleted, last of all, the output is one of format 1, and all else refuses it. Shards keep their
bytes and the ids in their names; what carries no record of ours stays where it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipelines.commit.log import STRUCK_OUT, move_all
from pipelines.commit.planned import read_plan, to_parquet, write_plan
from pipelines.commit.records import SCHEMA, UnitRecord, read_metadata, read_record
from pipelines.job import FrozenJob
from pipelines.stores.concurrent_map import map_concurrently
from pipelines.stores.store import LocalStore, Store
from t5enc.errors import OutputError
from t5enc.storage.filesystems import hide_credentials
from t5enc.storage.layout import (
    DATA,
    FORMAT_VERSION,
    JOB,
    LOG,
    MANIFEST,
    NOTES,
    NULL,
    OLD_JOB,
    PARQUET,
    SHARD_NAME,
    STALE,
    SUCCESS,
    TEMPORARY,
    is_shard,
    name_folder,
)

OLD_PLAN = "_plan.parquet"
OLD_MANIFEST = "manifest.parquet"
OLD_LOG = "_manifest"
OLD_STALE = "_stale"
OLD_TEMPORARY = "_tmp"
OLD_NULL = "null.safetensors"
# Sources of these names had a folder with another name, for these were taken.
RESERVED = (OLD_LOG, OLD_MANIFEST, OLD_PLAN, OLD_STALE, OLD_TEMPORARY)
RENAMED = "source_"
FOLDERS = {OLD_LOG: LOG, OLD_STALE: STALE, OLD_TEMPORARY: TEMPORARY}
FOLDER_PARTS = [(folder,) for folder in FOLDERS]


@dataclass(frozen=True, slots=True)
class Migration:
    """Shards that were moved to `data/`, and Parquet files without a record of ours, which were not."""

    moved: int
    foreign: tuple[str, ...]


def migrate_output(store: Store) -> Migration:
    """Move what is there; OutputError where there is no job. One of format 2 stays as it is."""
    try:
        job = FrozenJob.from_old_json(store.read(OLD_JOB))
    except FileNotFoundError as error:
        if store.size(JOB) is not None:
            FrozenJob.from_json(store.read(JOB))
            return Migration(0, ())
        raise OutputError(f"expected the output of a t5enc job, got a folder without {OLD_JOB} and {JOB}") from error
    names = [name for name, _ in store.list() if not name.startswith(f"{NOTES}/")]
    shards = [name for name in names if _may_be_shard(name)]
    targets = list(map_concurrently(partial(_find_place, store), shards))
    _move(store, zip(shards, targets, strict=True))
    _move_notes(store, names)
    _rewrite_plan(store)
    _rewrite_manifest(store, job)
    store.replace(JOB, job.to_json())
    for name in (OLD_MANIFEST, OLD_PLAN):
        store.delete(name)
    if isinstance(store, LocalStore):
        _remove_emptied(store, shards)
    store.delete(OLD_JOB)
    foreign = tuple(name for name, target in zip(shards, targets, strict=True) if target is None)
    return Migration(len(set(filter(is_shard, filter(None, targets))) - set(names)), foreign)


def _may_be_shard(name: str) -> bool:
    top = name.partition("/")[0]
    return name.endswith(PARQUET) and "/" in name and top not in FOLDERS


def _find_place(store: Store, name: str) -> str | None:
    """Where a shard belongs: aside where it is torn; None for a file that is no shard of ours."""
    record = read_record(store, name)
    file = name.rpartition("/")[2]
    if record is not None and record.name.rpartition("/")[2] == file:
        return record.name
    is_torn = record is None and SHARD_NAME.fullmatch(file) is not None and read_metadata(store, name) is None
    return f"{STALE}/{name}.{uuid.uuid4().hex[:8]}" if is_torn else None


def _move(store: Store, moves: Iterable[tuple[str, str | None]]) -> None:
    move_all(store, [(name, target) for name, target in moves if target is not None and target != name])


def _move_notes(store: Store, names: Sequence[str]) -> None:
    """The log, what was put aside, what is half written, and the null prompt."""
    for name in names:
        if name.startswith(f"{OLD_LOG}/") and name.endswith(STRUCK_OUT):
            store.replace(f"{LOG}{name.removeprefix(OLD_LOG)}", _rename_struck_out(store.read(name)))
            store.delete(name)
    plain = [(name, _find_folder(name)) for name in names if not name.endswith(STRUCK_OUT)]
    _move(store, plain)


def _find_folder(name: str) -> str | None:
    if name == OLD_NULL:
        return NULL
    top, separator, rest = name.partition("/")
    return f"{FOLDERS[top]}/{rest}" if separator and top in FOLDERS else None


def _rename_struck_out(data: bytes) -> bytes:
    """The same names as shards have now; what is damaged stays so, and strikes out all."""
    try:
        return json.dumps([new for name in json.loads(data) for new in _rename(name)]).encode()
    except (ValueError, TypeError, AttributeError):
        return data


def _rename(name: str) -> Iterator[str]:
    """Names that a shard may have now which had this one: a folder may have been called so or renamed so."""
    folder, _, file = name.rpartition("/")
    yield f"{name_folder(folder)}/{file}"
    source = folder.removeprefix(RENAMED)
    if source != folder and source.partition("/")[0] in RESERVED:
        yield f"{name_folder(source)}/{file}"


def _rewrite_plan(store: Store) -> None:
    """OutputError where it is damaged: it alone says what all inputs were called."""
    try:
        files = read_plan(store, OLD_PLAN).in_order()
    except FileNotFoundError:  # of a job that was cut short
        return
    except (OSError, pa.ArrowException, KeyError) as error:
        raise OutputError(
            f"{OLD_PLAN}: cannot be read: {error}; it says what the inputs are called in this output: run this again, "
            f"or delete it, and inputs that are not given as in the run before may be computed anew"
        ) from error
    write_plan(store, files)


def _rewrite_manifest(store: Store, job: FrozenJob) -> None:
    """The list of shards under their names now, and `_SUCCESS` for it where there was one for the old list."""
    try:
        success: Any = json.loads(store.read(SUCCESS))
        vouched = success["manifest_sha256"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        vouched = None
    old, new = _read(store, OLD_MANIFEST), _read(store, MANIFEST)
    if old is not None and vouched == _hash(old):
        rows = sorted((UnitRecord.from_row(row).to_row() for row in _list_rows(old)), key=lambda row: row["name"])
        manifest = to_parquet(
            [pa.Table.from_pylist(rows, SCHEMA)], SCHEMA.with_metadata({"fingerprint": job.fingerprint})
        )
        store.replace(MANIFEST, manifest)
        store.replace(SUCCESS, json.dumps(success | {"manifest_sha256": _hash(manifest)}, indent=2).encode())
    elif new is None or vouched != _hash(new):
        store.delete(SUCCESS)


def _list_rows(manifest: bytes) -> list[dict[str, Any]]:
    return pq.read_table(pa.BufferReader(manifest)).to_pylist()  # type: ignore[no-any-return]


def _read(store: Store, name: str) -> bytes | None:
    try:
        return store.read(name)
    except FileNotFoundError:
        return None


def _hash(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


def _remove_emptied(store: LocalStore, moved: Iterable[str]) -> None:
    """Remove what is empty now of the folders that something was moved out of, and above them; others may be anybody's.

    Of a run that was killed there are left those that only a job makes: `*.parquet`, and its notes'.
    """
    folders = {PurePosixPath(name).parent for name in moved}
    below = (PurePosixPath(os.path.relpath(where, store.root)) for where, _, _ in os.walk(store.root))
    folders |= {folder for folder in below if folder.name.endswith(PARQUET) or folder.parts[:1] in FOLDER_PARTS}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        for path in [folder, *folder.parents]:
            if path.parts:
                with contextlib.suppress(OSError):
                    os.rmdir(store.root / path)


def print_migration(output: str, migration: Migration) -> None:
    """What was moved, what was not, and how to go on."""
    console = Console(soft_wrap=True, highlight=False)
    shown = hide_credentials(output)
    for name in migration.foreign:
        console.print(f"{name}: no shard of this job, and left where it is; move it elsewhere", markup=False)
    console.print(
        f"{shown}: {migration.moved:,} shards moved to {DATA}/, as format {FORMAT_VERSION} has them; "
        f"the same `t5enc encode` goes on from here",
        markup=False,
    )
