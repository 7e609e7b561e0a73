"""The pass over all captions: what comes back undone is done again, what cannot be is left out, the first counts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.actors.tasks import FatalError, SpanResult
from pipelines.commit.protocol import begin_commit
from pipelines.dedup.captions_file import write_captions
from pipelines.dedup.key_files import list_keys, write_keys
from pipelines.dedup.repeats import Repeats, Tally
from pipelines.plan.units import Unit
from pipelines.run.key_pass import find_repeats
from t5enc.errors import DriverError, ExitCode
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.dedup.key_tables import make_rows
from tests.pipelines.small_jobs import make_job, plan_file

LETTERS = ["ab", "bc", "cd", "dd"]


class Pass:
    """A run of four units, and what becomes of each of them, by its number, when it is its turn."""

    def __init__(self, **become: Callable[[Unit], SpanResult]) -> None:
        self.store = MemoryStore()
        self.commit = begin_commit(self.store, make_job(duplicates="referenced"), [plan_file(rows=8)])
        self.become = become
        self.turns: list[list[int]] = []

    def map_keys(self, is_there: NDArray[np.bool_]) -> list[list[SpanResult]]:
        left = np.flatnonzero(~is_there).tolist()
        self.turns.append(left)
        return [[self.note(number)] for number in left]

    def note(self, number: int) -> SpanResult:
        unit = self.commit.units.at(number)
        if f"unit_{number}" in self.become:
            return self.become[f"unit_{number}"](unit)
        write_keys(self.store, unit.id, make_rows(LETTERS[number]))
        return SpanResult(kind="unit", unit=unit)

    def find(self) -> Tally:
        run: Any = SimpleNamespace(store=self.store, commit=self.commit)
        return find_repeats(run, self.map_keys)


def test_files_of_keys_are_gone_when_captions_are_there() -> None:
    run = Pass()
    assert run.find() == Tally(captions=8, repeated=7, distinct=3)
    assert list_keys(run.store) == set()
    assert run.find() == Tally(captions=8, repeated=7, distinct=3)
    assert run.turns == [[0, 1, 2, 3]]


def test_what_seems_to_kill_is_left_out() -> None:
    run = Pass(unit_3=lambda unit: SpanResult(kind="suspect", unit=unit))
    assert run.find() == Tally(captions=6, repeated=4, distinct=2)


def test_what_a_leaving_node_gives_back_is_done_again_and_not_for_ever() -> None:
    run = Pass(unit_2=lambda _: SpanResult(kind="returned"))
    with pytest.raises(DriverError, match="captions of 1 units came back unread 3 times"):
        run.find()
    assert run.turns == [[0, 1, 2, 3], [2], [2], [2]]
    run.become = {}
    assert run.find().captions == 8
    assert run.turns[4:] == [[2]]


def test_what_no_unit_would_survive_ends_the_pass() -> None:
    run = Pass(unit_1=lambda _: SpanResult(kind="fatal", reason="no tokenizer", exit_code=ExitCode.FAILED))
    with pytest.raises(FatalError, match="no tokenizer"):
        run.find()


def test_what_another_run_has_found_meanwhile_counts() -> None:
    other = Pass()
    other.find()

    def finish_other(_: Unit) -> SpanResult:
        name = "_t5enc/distinct/captions-1"
        run.store.create(name, other.store.read(name))
        return SpanResult(kind="returned")

    run = Pass(unit_0=finish_other)
    assert run.find() == Tally(captions=8, repeated=7, distinct=3)
    assert list_keys(run.store) == set()


def test_captions_once_written_stay() -> None:
    run = Pass()
    run.find()
    write_captions(run.store, 1, Repeats(run.store, run.commit.units.select(np.arange(0))), within_units=True)
    assert run.find().distinct == 3
