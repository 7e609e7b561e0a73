"""The commit protocol's specification, with rows that come from an earlier output: it changes, vanishes and is damaged.

The earlier output holds what shards of this one were at some moment; the index of its keys may be older than it is.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.fs as pafs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from pipelines.actors.shard_writer import ShardWriter
from pipelines.commands.fsck import check_output
from pipelines.commit.protocol import begin_commit
from pipelines.commit.records import UnitRecord
from pipelines.job import FrozenJob
from pipelines.plan.units import Unit
from pipelines.reuse.copying import EarlierRows
from pipelines.reuse.earlier import Found, list_output
from t5enc.embeddings import Embeddings
from t5enc.storage.layout import is_shard
from t5enc.text_encoder import EncodedTexts
from tests.pipelines.commit.drivers import SOURCES, Killed, list_finished, read_record
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.commit.test_protocol import Protocol
from tests.pipelines.commit.test_two_drivers import run_to_the_end
from tests.pipelines.commit.turns import take_turns
from tests.pipelines.small_jobs import embed, make_job, make_unit_shard, plan_file, prepare_small


@cache
def find_bytes(row: int, rounding: int) -> bytes:
    """The embedding of a row as it is stored."""
    unit = Unit(source="a.parquet", first_row=row, num_rows=1, id="0" * 16)
    return embed(make_job(), unit, rounding).embeddings.values.numpy().tobytes()


def encode(
    earlier: EarlierRows | None, job: FrozenJob, unit: Unit, version: str, *, dies: bool = False, rounding: int = 0
) -> tuple[UnitRecord, bytes]:
    """A unit's shard, of copied rows and of computed ones."""
    job = replace(job, has_keys=True)
    if earlier is None or dies:
        died = {unit.first_row} if dies else set()
        return make_unit_shard(job, unit, int(version), died=died, rounding=rounding)
    prepared = prepare_small(unit, int(version))
    shard, whole = ShardWriter(prepared, job, prepared.rows), slice(0, unit.num_rows)
    keys = shard.hash_prompts(whole)
    copied = earlier.copy(earlier.look_up(keys, np.array(prepared.rows)))
    for place, value in copied.stored.values.items():
        assert value.tobytes() in [find_bytes(unit.first_row + place, rounding) for rounding in (0, 1)]
    computed = ~copied.is_there
    values = embed(job, unit, rounding).embeddings.values[computed]
    shard.add(whole, EncodedTexts(Embeddings.from_lengths(values, computed.astype(int).tolist())), keys, copied)
    record, data = shard.finish()
    return record, bytes(data)


def open_small(folder: Path) -> EarlierRows:
    """Small shards in a folder as an earlier output of what lies there now."""
    found = Found("old", pafs.LocalFileSystem(), str(folder), replace(make_job(), has_keys=True))
    return EarlierRows([list_output(found)], "float16")


class ReusingProtocol(Protocol):
    """Workers look rows up in an earlier output, and compute those that they do not get."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(self.same.enter_context(tempfile.TemporaryDirectory()))
        self.old, cached = self.folder / "old", self.folder / "cache"
        cached.mkdir()
        self.same.enter_context(mock.patch("pipelines.reuse.index_cache.find_cache", return_value=cached))
        self.same.enter_context(mock.patch("tests.pipelines.commit.test_protocol.encode", self.encode))
        self.earlier: EarlierRows | None = None

    def encode(self, *arguments: Any, **options: Any) -> tuple[UnitRecord, bytes]:
        return encode(self.earlier, *arguments, **options)

    @rule(is_opened=st.booleans())
    def keep_as_earlier(self, is_opened: bool) -> None:
        """What lies in the output now becomes the earlier one, or a part of it; who has it open may not notice."""
        for name, data in self.store.objects.items():
            if is_shard(name):
                (self.old / name).parent.mkdir(parents=True, exist_ok=True)
                (self.old / name).write_bytes(data)
        if is_opened or self.earlier is None:
            self.open_earlier()

    @rule()
    def open_earlier(self) -> None:
        """Another process looks at what there is now."""
        self.earlier = open_small(self.old)

    @precondition(lambda self: self._list_old())
    @rule(data=st.data(), how=st.sampled_from(["truncate", "delete", "swap", "vanish"]))
    def damage_earlier(self, data: st.DataObject, how: str) -> None:
        shards = self._list_old()
        one, other = (data.draw(st.sampled_from(shards)) for _ in range(2))
        first, second = one.read_bytes(), other.read_bytes()
        if how == "truncate":
            one.write_bytes(first[: len(first) // 2])
        elif how == "delete":
            one.unlink()
        elif how == "swap":
            one.write_bytes(second)
            other.write_bytes(first)
        else:
            shutil.rmtree(self.old)

    def _list_old(self) -> list[Path]:
        return sorted(self.old.rglob("*.parquet"))


TestReusingProtocol: Any = ReusingProtocol.TestCase
TestReusingProtocol.settings = settings(
    stateful_step_count=30, max_examples=15, database=None, suppress_health_check=list(HealthCheck), deadline=None
)


@settings(database=None, max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    order=st.lists(st.integers(0, 1), max_size=80),
    killed_after=st.tuples(*[st.none() | st.integers(0, 30)] * 2),
    kept=st.integers(0, 3),
    is_gone=st.booleans(),
)
def test_two_drivers_that_reuse_may_interleave_at_every_operation(
    order: list[int],
    killed_after: tuple[int | None, ...],
    kept: int,
    is_gone: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    store, old = MemoryStore(), tmp_path_factory.mktemp("old")
    files = [plan_file(SOURCES[0], 4), plan_file(SOURCES[1], 2)]
    units = begin_commit(MemoryStore(), make_job(), files).left
    for unit in list(units)[:kept]:
        (old / unit.name).parent.mkdir(parents=True, exist_ok=True)
        (old / unit.name).write_bytes(encode(None, make_job(), unit, "1")[1])
    earlier = open_small(old)
    earlier.open()
    if is_gone:
        shutil.rmtree(old)
    with mock.patch("tests.pipelines.commit.test_two_drivers.encode", partial(encode, earlier)):
        users = [partial(run_to_the_end, files=files, killed_after=after) for after in killed_after]
        errors = take_turns(store, users, iter(order), lambda: None)
        assert all(isinstance(error, Killed | None) for error in errors)
        run_to_the_end(store, files=files)
    assert list_finished(store) == [unit.name for unit in units]
    assert check_output(store, deep=True) == []
    reused = sum(read_record(store.objects[unit.name]).counts.reused for unit in units)
    assert reused == 0 if is_gone else reused >= 2 * kept
