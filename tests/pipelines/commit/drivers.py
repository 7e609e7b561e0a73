"""Drivers that may be killed before any operation, what they encode, and what readers find of it."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commands.fsck import check_output
from pipelines.commit.protocol import Commit
from pipelines.commit.records import UnitRecord
from pipelines.job import FrozenJob
from pipelines.plan.units import Unit
from pipelines.stores.store import Store
from t5enc.errors import OutputError
from t5enc.output import read_manifest
from t5enc.storage import METADATA_KEY
from t5enc.storage.layout import JOB, MANIFEST, PLAN, RECORD_KEY, STALE, SUCCESS, is_shard
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.small_jobs import caption, make_unit_shard, read_captions_of

SOURCES = ("a.parquet", "a/b.parquet", "manifest.parquet")
SHARDS: dict[tuple[str, bool, int], tuple[UnitRecord, bytes]] = {}


class Killed(BaseException):
    """What a process meets that is killed."""


class Mortal:
    """A store whose user is killed before operation number `after`, if it does not end before; `check` after each."""

    def __init__(self, store: Store, after: int | None = None, check: Callable[[], None] = lambda: None) -> None:
        self.store = store
        self.left = -1 if after is None else after
        self.check = check
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self.store, name)

        def run(*args: Any) -> Any:
            with self.lock:
                if self.left == 0:
                    raise Killed
                self.left -= 1
                result = operation(*args)
                self.check()
                return result

        return run


def find_job(store: MemoryStore) -> FrozenJob | None:
    """The job of the output, if it has one."""
    return FrozenJob.from_json(store.read(JOB)) if JOB in store.objects else None


def list_damageable(store: MemoryStore) -> list[str]:
    """Objects that may be damaged: all but the job and what was put aside."""
    return [name for name in store.objects if name != JOB and not name.startswith(f"{STALE}/")]


class AsFilesystem:
    """As much of a pyarrow filesystem over two objects as a reader of the manifest needs."""

    def __init__(self, **objects: bytes | None) -> None:
        self.objects = objects

    def open_input_file(self, path: str) -> Any:
        data = self.objects[path.rpartition("/")[2]]
        if data is None:
            raise FileNotFoundError(path)
        return pa.BufferReader(data)


def list_finished(store: MemoryStore) -> list[str] | None:
    """What readers are given, None where they are refused."""
    names = _list_finished(store.objects.get(SUCCESS), store.objects.get(MANIFEST))
    return None if names is None else list(names)


@cache
def _list_finished(success: bytes | None, manifest: bytes | None) -> tuple[str, ...] | None:
    try:
        found = read_manifest(AsFilesystem(_SUCCESS=success, manifest=manifest), "")
    except OutputError:  # a `_SUCCESS` that was damaged
        return None
    return None if found is None else tuple(found["name"].to_pylist())


def encode(
    job: FrozenJob, unit: Unit, version: str, *, dies: bool = False, rounding: int = 0
) -> tuple[UnitRecord, bytes]:
    """A unit's shard, made once; its name tells job, input and rows."""
    key = (unit.name, dies, rounding)
    if key not in SHARDS:
        died = {unit.first_row} if dies else ()
        SHARDS[key] = make_unit_shard(job, unit, int(version), died=died, rounding=rounding)
    return SHARDS[key]


@dataclass(repr=False)
class Driver:
    """A run as far as the store can tell."""

    commit: Commit
    versions: dict[str, str]
    had_nothing_to_do: bool
    is_whole: bool
    unlogged: list[UnitRecord] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Driver({self.versions}, generation {self.commit.frozen.generation}, left {len(self.commit.left)})"

    @property
    def is_done(self) -> bool:
        """Whether it may end its job."""
        return self.is_whole and not self.commit.left

    def expected_captions(self, unit: Unit) -> tuple[str, ...]:
        rows = range(unit.first_row, unit.first_row + unit.num_rows)
        return tuple(caption(unit.source, int(self.versions[unit.source]), row) for row in rows)


def find_beside(store: MemoryStore, commit: Commit) -> set[str]:
    """Inputs of the shards in `data/` that are not planned, all of the same generation."""
    beside = [data for name, data in store.objects.items() if is_shard(name) and name not in commit.units]
    assert {read_fingerprint(shard) for shard in beside} <= {commit.frozen.fingerprint}
    return {read_record(shard).source for shard in beside}


@cache
def read_fingerprint(shard: bytes) -> str:
    metadata = pq.read_metadata(pa.BufferReader(shard)).metadata
    return str(json.loads(metadata[METADATA_KEY])["fingerprint"])


def is_to_do(shard: bytes | None, *, retry_errors: bool) -> bool:
    """Whether a run has to encode the unit of which this is the shard."""
    if shard is None or read_captions_of(shard) is None:
        return True
    return retry_errors and read_record(shard).counts.died > 0


@cache
def read_record(shard: bytes) -> UnitRecord:
    return UnitRecord.from_json(pq.read_metadata(pa.BufferReader(shard)).metadata[RECORD_KEY])


@cache
def is_parquet(data: bytes) -> bool:
    try:
        return pq.read_metadata(pa.BufferReader(data)) is not None
    except (OSError, pa.ArrowException):
        return False


def check_what_fsck_finds(store: MemoryStore, vouched: Mapping[str, bytes]) -> None:
    """That it finds all that is wrong, and nothing else; `vouched` are the shards as `_SUCCESS` found them."""
    names = list_finished(store)
    found = {problem.name for problem in check_output(store)}
    shards = {name for name in store.objects if is_shard(name)}
    if names is None:
        assert found & {SUCCESS, MANIFEST}
        assert found >= {name for name in shards if read_captions_of(store.objects[name]) is None}
        return
    changed = {name for name in names if store.objects.get(name) != vouched[name]}
    plan = set() if is_parquet(store.objects.get(PLAN, b"")) else {PLAN}
    assert found == changed | (shards - set(names)) | plan


def repeat_alike() -> ExitStack:
    """Until it is closed, chance is the same whenever Hypothesis repeats a schedule."""
    pinned = ExitStack()
    # Names look random, as they are.
    pinned.enter_context(mock.patch("uuid.uuid4", map(_scatter, count(1)).__next__))
    # One move at a time, so that a schedule kills before the same one.
    pinned.enter_context(mock.patch("pipelines.commit.log.MOVES", 1))
    return pinned


def _scatter(number: int) -> uuid.UUID:
    return uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)
