"""What a ledger adds up of a run, and who it has heard of."""

from __future__ import annotations

import pickle

import pytest

from pipelines.commit.counts import Cost, Counts
from pipelines.progress import ledger as ledger_module
from pipelines.progress.findings import Findings
from pipelines.progress.ledger import SILENT_SECONDS, Ledger
from pipelines.progress.places import Place

COUNTS = Counts(captions=10, tokens=100, input_rows=10)
COST = Cost(waiting_seconds=1.0, computing_seconds=4.0, writing_seconds=2.0)


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ledger_module, "time", clock)
    return clock


class Gauges:
    """What metrics were set to last."""

    def __init__(self, job: str) -> None:
        self.set_to: dict[str, float] = {}
        self.added: list[tuple[Counts, Cost]] = []

    def set(self, **gauges: float) -> None:
        self.set_to = gauges

    def add(self, counts: Counts, cost: Cost) -> None:
        self.added.append((counts, cost))


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> type[Gauges]:
    monkeypatch.setattr(ledger_module, "JobMetrics", Gauges)
    return Gauges


def test_a_unit_was_computed_before_it_was_written_and_waited_for_before_that(clock: Clock) -> None:
    ledger = Ledger()
    clock.now += 10.0
    ledger.end("u", "a", COUNTS, COST, Findings())
    history = ledger.read_details().history
    assert history.columns["writing_seconds"] == pytest.approx([0] * 8 + [1, 1])
    assert history.columns["computing_seconds"] == pytest.approx([0] * 4 + [1] * 4 + [0] * 2)
    assert history.columns["waiting_seconds"] == pytest.approx([0] * 3 + [1] + [0] * 6)
    assert history.columns["tokens"] == pytest.approx([0] * 4 + [25] * 4 + [0] * 2)


def test_an_actor_that_starts_again_was_lost_and_keeps_its_node(clock: Clock) -> None:
    ledger = Ledger()
    for actor, node in (("a", "one"), ("b", "one"), ("a", "two")):
        ledger.starting(Place(actor, node))
        ledger.started(Place(actor, node), {"device": "cpu"})
    ledger.end("u", "b", COUNTS, COST, Findings())
    assert ledger.read().actors_lost == 1
    one, two = ledger.read_details().places
    assert (one.node, one.actors, one.starts, one.cost.units, one.counts.tokens) == ("one", 1, 1, 1, 100)
    assert (two.node, two.actors, two.starts, two.cost.units) == ("two", 1, 2, 0)


def test_gauges_tell_of_actors_that_were_heard_of_and_of_rows_that_are_left(clock: Clock, gauges: type[Gauges]) -> None:
    ledger = Ledger("f00d", rows=30)
    told: Gauges = ledger.metrics  # type: ignore[assignment]
    assert told.set_to == {"actors_ready": 0, "rows_left": 30}
    for actor in ("a", "b"):
        ledger.starting(Place(actor, "one"))
        ledger.started(Place(actor, "one"), {"device": "cpu"})
    assert told.set_to["actors_ready"] == 2
    clock.now += SILENT_SECONDS + 1
    ledger.end("u", "a", COUNTS, COST, Findings())
    assert told.set_to == {"actors_ready": 1, "rows_left": 20}
    ledger.starting(Place("a", "one"))
    assert told.set_to["actors_ready"] == 0


def test_rows_that_another_run_has_committed_are_not_left_at_the_end(gauges: type[Gauges]) -> None:
    ledger = Ledger("f00d", rows=30)
    told: Gauges = ledger.metrics  # type: ignore[assignment]
    ledger.end("u", "a", COUNTS, COST, Findings())
    ledger.settle(0)
    assert told.set_to["rows_left"] == 0
    ledger.settle(5)
    assert told.set_to["rows_left"] == 5


def test_an_actor_for_a_suspect_is_none_of_those_that_are_ready(gauges: type[Gauges]) -> None:
    ledger = Ledger("f00d")
    told: Gauges = ledger.metrics  # type: ignore[assignment]
    alone = Place("a", "one", is_alone=True)
    ledger.starting(alone)
    ledger.started(alone, {"device": "cpu"})
    ledger.end("u", "a", COUNTS, COST, Findings())
    assert told.set_to["actors_ready"] == 0
    assert [place.cost.units for place in ledger.read_details().places] == [1]


def test_a_unit_that_is_begun_again_is_a_repetition(gauges: type[Gauges]) -> None:
    ledger = Ledger("f00d")
    told: Gauges = ledger.metrics  # type: ignore[assignment]
    ledger.begin("u")
    ledger.begin("v")
    assert told.added == []
    ledger.begin("u")
    assert told.added == [(Counts(), Cost(unit_retries=1))]
    assert ledger.read().cost.unit_retries == 1


def test_a_ledger_that_was_lost_itself_takes_what_actors_tell_it() -> None:
    ledger = Ledger()
    ledger.end("u", "never heard of", COUNTS, COST, Findings())
    assert ledger.read().counts.captions == 10
    assert ledger.read_details().places == []
    ledger.started(Place("whose start it missed", "one"), {"device": "cpu"})
    assert [place.node for place in ledger.read_details().places] == ["one"]


def test_a_unit_that_was_handed_over_was_in_no_hands_when_its_tokenizers_node_died() -> None:
    ledger = Ledger()
    for _ in range(3):  # a task that is repeated hands over what it handed over before
        ledger.begin("u", "tokenizer's")
        ledger.hand_over("u", "tokenizer's")
    assert ledger.find_suspects(["u"]) == []
    ledger.begin("u", "encoder's")
    ledger.begin("u", "encoder's")
    assert ledger.find_suspects(["u"]) == ["u"]


def test_units_that_wait_are_counted_until_they_are_begun() -> None:
    ledger = Ledger()
    for unit in ("u", "v"):
        ledger.begin(unit, "n")
        ledger.hand_over(unit, "n")
    ledger.begin("u", "n")
    ledger.hand_over("w", "n")
    assert (ledger.read().most_ahead, ledger.handed, ledger.read().cost.unit_retries) == (2, {"v", "w"}, 0)
    ledger.end("v", "a", COUNTS, COST, Findings())
    assert ledger.handed == {"w"}


def test_starts_of_one_actor_that_fail_in_a_row_are_counted_until_something_is_committed() -> None:
    ledger, looping, working = Ledger(), Place("looping", "one"), Place("working", "two")
    for place in (looping, working):
        ledger.starting(place)
        ledger.started(place, {"device": "cpu"})
    for failed in range(4):
        ledger.starting(looping)
        assert ledger.read().failed_starts == failed
    ledger.end("u", "working", COUNTS, COST, Findings())
    assert ledger.read().failed_starts == 0
    ledger.starting(looping)
    assert ledger.read().failed_starts == 1
    ledger.started(looping, {"device": "cpu"})
    assert ledger.read().failed_starts == 0


def test_actors_that_load_at_the_same_time_are_no_failed_starts() -> None:
    ledger = Ledger()
    for number in range(64):
        ledger.starting(Place(f"actor {number}", "one"))
        ledger.starting(Place(f"suspect {number}", "one", is_alone=True))
    assert (ledger.read().failed_starts, ledger.read().actors_left) == (0, 64)


def test_an_actor_that_failed_is_not_left_until_it_starts_again() -> None:
    ledger = Ledger()
    ledger.starting(Place("a", "one"))
    ledger.starting(Place("b", "one"))
    ledger.started(Place("b", "one"), {"device": "cpu"})
    ledger.fail("OSError: gone", "a")
    assert (ledger.read().actors_left, ledger.read().failure) == (1, "OSError: gone")
    ledger.starting(Place("a", "one"))
    assert ledger.read().actors_left == 2


def test_whatever_an_actor_begins_or_ends_is_a_sign() -> None:
    ledger = Ledger()
    ledger.begin("u")
    ledger.note("u", [1])
    ledger.end("u", "a", COUNTS, COST, Findings())
    ledger.started(Place("a", "one"), {"device": "cpu"})
    assert ledger.read().signs == 4


def test_tokenizers_are_counted_as_encoders_are_and_apart_from_them() -> None:
    ledger = Ledger()
    ledger.starting(Place("a", "one"))
    ledger.started(Place("a", "one"), {"device": "cpu"})
    for _ in range(3):
        ledger.tokenizer_starting("t")
    assert (ledger.read().failed_starts, ledger.read().failing, ledger.read().actors_left) == (2, "tokenizer", 1)
    ledger.end("u", "a", COUNTS, COST, Findings())
    assert ledger.read().failed_starts == 0
    ledger.tokenizer_started("t")
    assert (ledger.read().failed_starts, ledger.read().signs) == (0, 3)
    ledger.fail("OSError: gone", "t", "tokenizer")
    assert ledger.read().actors_left == 0, "the encoder that is left has nobody to tokenize for it"


def test_counts_of_a_run_and_of_a_place_are_read_by_their_names_alone(clock: Clock) -> None:
    ledger = Ledger()
    ledger.starting(Place("a", "node"))
    ledger.end("u", "a", COUNTS, COST, Findings())
    (place,) = ledger.read_details().places
    for sums in (pickle.loads(pickle.dumps(ledger.read())), place):
        assert (sums.captions, sums.tokens, sums.units, sums.computing_seconds) == (10, 100, 1, 4.0)
