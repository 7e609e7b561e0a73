"""How a caption that kills is found, with deaths that are only pretended."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import suspects
from pipelines.records import UnitRecord
from pipelines.shards import Caution
from pipelines.sources import SourceFile
from pipelines.suspects import LOST_NODES, Death, encode_suspect, learn
from pipelines.units import Span, Unit
from t5enc.errors import DriverError, OutputError, SourceError, T5encError

FILE = SourceFile(source="a.parquet", path="/a.parquet", size=1, partitions=())
SPAN = Span(file=FILE, digest="d", first_row=0, num_rows=20)
UNIT = Unit(source="a.parquet", first_row=0, num_rows=20, id="u")
CAPTIONS = 20
STREAM = 6


class Process:
    """Encodes twenty captions in streams of six, and dies as soon as a killer is in hand."""

    def __init__(self, killers: frozenset[int]) -> None:
        self.killers = killers
        self.deaths = 0
        self.caution = Caution()

    def attempt(self, *arguments: Any) -> UnitRecord | Death:
        self.caution = arguments[-1]
        captions = [i for i in range(CAPTIONS) if i not in self.caution.dead]
        together = [i for i in captions if i not in self.caution.alone]
        streams = [together[start : start + STREAM] for start in range(0, len(together), STREAM)]
        for in_hand in [*streams, *([i] for i in captions if i in self.caution.alone)]:
            if self.killers & set(in_hand):
                self.deaths += 1
                return Death(False, in_hand)
        return make_record(len(self.caution.dead))


def make_record(died: int) -> UnitRecord:
    counts = {"captions": CAPTIONS, "encoded": CAPTIONS - died, "errors": died, "died": died}
    rest = {"input_rows": CAPTIONS, "truncated": 0, "tokens": 9, "longest": 3}
    return UnitRecord(name=UNIT.name, source=UNIT.source, first_row=0, content="c", **counts, **rest)


@given(killers=st.frozensets(st.integers(0, CAPTIONS - 1), max_size=5))
def test_just_the_captions_that_kill_are_given_up(killers: frozenset[int]) -> None:
    process = Process(killers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suspects, "_attempt", process.attempt)
        result = encode_suspect(None, None, None, SPAN, UNIT)  # type: ignore[arg-type]
    assert result.kind == "unit"
    assert process.caution.dead == killers
    assert process.deaths <= 3 * len(killers)


def test_a_lone_caption_must_kill_twice_to_be_given_up() -> None:
    once = learn(learn(Caution(), [2, 3]), [3])
    assert (once.alone, once.dead) == ({2, 3}, set())
    assert learn(once, [3]).dead == {3}


def test_a_death_before_any_caption_teaches_nothing_and_is_not_repeated_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspects, "_attempt", lambda *arguments: Death(False, []))
    with pytest.raises(OutputError, match="died 3 times before it encoded a caption"):
        encode_suspect(None, None, None, SPAN, UNIT)  # type: ignore[arg-type]


def test_a_death_with_the_node_accuses_nobody_and_is_not_repeated_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    cautions = []

    def lose(*arguments: Any) -> UnitRecord | Death:
        cautions.append(arguments[-1])
        return make_record(0) if len(cautions) == LOST_NODES else Death(True, [3])

    monkeypatch.setattr(suspects, "_attempt", lose)
    assert encode_suspect(None, None, None, SPAN, UNIT).kind == "unit"  # type: ignore[arg-type]
    assert set(cautions) == {Caution()}
    monkeypatch.setattr(suspects, "_attempt", lambda *arguments: Death(True, []))
    with pytest.raises(DriverError, match="10 nodes were lost"):
        encode_suspect(None, None, None, SPAN, UNIT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind"), [(SourceError("a.parquet: gone"), "unreadable"), (OutputError("the disk is full"), "fatal")]
)
def test_an_error_that_is_no_death_is_what_it_would_be_anywhere(
    monkeypatch: pytest.MonkeyPatch, error: T5encError, kind: str
) -> None:
    monkeypatch.setattr(suspects, "_attempt", lambda *arguments: error)
    result = encode_suspect(None, None, None, SPAN, UNIT)  # type: ignore[arg-type]
    assert (result.kind, result.reason) == (kind, str(error))
    assert result.exit_code == (error.exit_code if kind == "fatal" else 1)
    assert kind == "fatal" or result.span == SPAN
