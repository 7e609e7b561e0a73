"""How a caption that kills is found, with deaths that are only pretended."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.actors.shards import Caution
from pipelines.commit.counts import Counts
from pipelines.commit.records import UnitRecord
from pipelines.inputs.sources import SourceFile
from pipelines.plan.units import Span, Unit
from pipelines.run import suspects
from pipelines.run.suspects import LOST_NODES, SAME_LOSSES, Death, avoid_node, encode_suspect, learn
from t5enc.errors import DriverError, OutputError, SourceError, T5encError

FILE = SourceFile(source="a.parquet", path="/a.parquet", size=1, partitions=())
SPAN = Span(file=FILE, digest="d", first_row=0, num_rows=20, rows_per_unit=20)
UNIT = Unit(source="a.parquet", first_row=0, num_rows=20, id="u")
CAPTIONS = 20
STREAM = 6


class Process:
    """Encodes twenty captions in streams of six, and dies as soon as a killer is in hand."""

    def __init__(self, killers: frozenset[int], *, commits: bool = True) -> None:
        self.killers = killers
        self.commits = commits
        self.deaths = 0
        self.caution = Caution()

    def attempt(self, *arguments: Any) -> UnitRecord | Death:
        self.caution = arguments[-2]
        captions = [i for i in range(CAPTIONS) if i not in self.caution.dead]
        together = [i for i in captions if i not in self.caution.alone]
        streams = [together[start : start + STREAM] for start in range(0, len(together), STREAM)]
        for in_hand in [*streams, *([i] for i in captions if i in self.caution.alone)]:
            if self.killers & set(in_hand):
                self.deaths += 1
                return Death(in_hand=in_hand)
        return make_record(len(self.caution.dead)) if self.commits else Death()


def make_record(died: int) -> UnitRecord:
    encoded = {"captions": CAPTIONS, "encoded": CAPTIONS - died, "errors": died, "died": died}
    counts = Counts(input_rows=CAPTIONS, tokens=9, longest=3, **encoded)
    return UnitRecord(name=UNIT.name, source=UNIT.source, first_row=0, content="c", counts=counts)


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
    monkeypatch.setattr(suspects, "_attempt", lambda *arguments: Death())
    with pytest.raises(OutputError, match="died 3 times with no caption in hand"):
        encode_suspect(None, None, None, SPAN, UNIT)  # type: ignore[arg-type]


def test_a_death_with_the_node_accuses_nobody_and_is_not_repeated_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    cautions = []

    def lose(*arguments: Any) -> UnitRecord | Death:
        cautions.append(arguments[-2])
        return make_record(0) if len(cautions) == LOST_NODES else Death(with_node=True, in_hand=[len(cautions)])

    monkeypatch.setattr(suspects, "_attempt", lose)
    assert encode_suspect(None, None, None, SPAN, UNIT).kind == "unit"  # type: ignore[arg-type]
    assert set(cautions) == {Caution()}
    monkeypatch.setattr(suspects, "_attempt", lambda *arguments: Death(with_node=True))
    with pytest.raises(DriverError, match="10 nodes were lost"):
        encode_suspect(None, None, None, SPAN, UNIT)  # type: ignore[arg-type]


def test_a_process_that_dies_while_it_commits_accuses_no_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(frozenset({7}), commits=False)
    monkeypatch.setattr(suspects, "_attempt", process.attempt)
    with pytest.raises(OutputError, match=f"{UNIT.name}.* read or wrote the unit; lower rows_per_shard"):
        encode_suspect(None, None, None, SPAN, UNIT)  # type: ignore[arg-type]
    assert process.caution.dead == {7}


def test_memory_that_is_used_up_accuses_no_caption_and_is_not_repeated_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cautions = []

    def overflow(*arguments: Any) -> Death:
        cautions.append(arguments[-2])
        return Death(of_memory=True, in_hand=[3])

    monkeypatch.setattr(suspects, "_attempt", overflow)
    with pytest.raises(OutputError, match="the unit does not fit in memory: 3 processes"):
        encode_suspect(None, None, None, SPAN, UNIT)  # type: ignore[arg-type]
    assert cautions == [Caution()] * 3


def test_a_unit_that_brings_its_nodes_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = iter([Death(with_node=True), *[Death(with_node=True, in_hand=[3, 4])] * SAME_LOSSES])
    monkeypatch.setattr(suspects, "_attempt", lambda *arguments: next(deaths))
    with pytest.raises(OutputError, match=f"{UNIT.name}: 3 nodes were lost .* or it brings its node down"):
        encode_suspect(None, None, None, SPAN, UNIT)  # type: ignore[arg-type]


def test_a_broken_node_gives_no_caption_up_where_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    avoided = []

    def attempt(*arguments: Any) -> UnitRecord | Death:
        avoided.append(arguments[-1])
        return make_record(0) if arguments[-1] == "broken" else Death(in_hand=[3], node="broken")

    monkeypatch.setattr(suspects, "_attempt", attempt)
    assert encode_suspect(None, None, None, SPAN, UNIT).kind == "unit"  # type: ignore[arg-type]
    assert avoided == ["", "broken"]


def test_an_actor_is_asked_for_elsewhere_and_for_where_it_died_if_that_is_all_there_is() -> None:
    options = {"num_cpus": 2, "label_selector": {"zone": "a"}}
    assert avoid_node(options, "") == options
    assert avoid_node(options, "f00d") == {
        "num_cpus": 2,
        "label_selector": {"zone": "a", "ray.io/node-id": "!f00d"},
        "fallback_strategy": [{"label_selector": {"zone": "a"}}],
    }


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
