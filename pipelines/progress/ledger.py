"""Who is working on what: attempts at units, to find the one that kills its process, and progress so far.

Runs as a small Ray actor beside the driver. It forgets everything with the run; a caption that kills is found
again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.commit.counts import Cost, Counts
from pipelines.progress.findings import Findings
from pipelines.progress.history import History
from pipelines.progress.metrics import JobMetrics
from pipelines.progress.places import Place, PlaceSums, sum_places
from t5enc.fields.parts import show_values

Kind = Literal["encoder", "tokenizer"]
# A unit that was in hand at this many deaths of its process is a suspect, and is encoded alone later.
ATTEMPTS = 2
# An actor that has not been heard of for so long is not counted as ready.
SILENT_SECONDS = 600.0


@show_values
@dataclass(slots=True)
class Progress:
    """What is counted of the units that this run has committed, and the state of its actors.

    Counts can be read without `counts` and `cost` before their names, too.
    `most_ahead` is how many units that tokenizers had prepared waited for encoders at once.
    """

    counts: Counts = field(default_factory=Counts)
    cost: Cost = field(default_factory=Cost)
    actors_lost: int = 0
    actors_started: int = 0
    actors_ready: int = 0
    tokenizers_started: int = 0
    tokenizers_ready: int = 0
    most_ahead: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    actors_left: int = 0
    failed_starts: int = 0
    failing: Kind = "encoder"
    signs: int = 0
    failure: str = ""
    ready_at: float = 0.0
    ended_at: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first actor that was ready to the last unit that was committed."""
        return max(0.0, self.ended_at - self.ready_at)

    @property
    def fill(self) -> float:
        """Share of computed tokens that belong to a caption."""
        return self.cost.useful_tokens / self.cost.stream_tokens if self.cost.stream_tokens else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """More of a run than its progress: what happened when, what captions were like, and who encoded them where."""

    history: History = field(default_factory=History)
    findings: Findings = field(default_factory=Findings)
    places: list[PlaceSums] = field(default_factory=list)


class ActorStarts:
    """Actors of one kind on their way to work: starts of those that load, in a row since something was committed.

    `ready` says when those that are ready were last heard of.
    """

    def __init__(self) -> None:
        self.loading: dict[str, int] = {}
        self.ready: dict[str, float] = {}
        self.has_failed = False

    def begin(self, actor: str) -> None:
        """Its process is about to load; for the second time in a row, where the first one died."""
        self.ready.pop(actor, None)
        self.loading[actor] = self.loading.get(actor, 0) + 1

    def end(self, actor: str, now: float) -> None:
        """It is ready."""
        self.loading.pop(actor, None)
        self.ready[actor] = now

    def fail(self, actor: str) -> None:
        """It could not be made ready, and may never start again."""
        self.has_failed = True
        self.loading.pop(actor, None)
        self.ready.pop(actor, None)

    def forgive(self) -> None:
        """Something was committed: what died until now does not keep the run from getting on."""
        self.loading = dict.fromkeys(self.loading, 1)

    @property
    def failures(self) -> int:
        """The most starts in a row that one actor's process did not live through."""
        return max(self.loading.values(), default=1) - 1

    @property
    def left(self) -> int:
        """Actors that load or are ready."""
        return len(self.loading) + len(self.ready)


class Ledger:
    """Attempts and progress of one run."""

    def __init__(self, job: str | None = None, rows: int = 0) -> None:
        """`job` is the fingerprint that Ray's metrics get; of its input, `rows` are not committed yet."""
        self.attempts: dict[str, list[str]] = {}
        self.handed: set[str] = set()
        self.leaving: set[str] = set()
        self.in_hand: dict[str, list[int]] = {}
        self.progress = Progress()
        self.history, self.findings = History(), Findings()
        self.places: dict[str, PlaceSums] = {}
        self.starts: dict[Kind, ActorStarts] = {"encoder": ActorStarts(), "tokenizer": ActorStarts()}
        self.rows = rows
        self.began = time.monotonic()
        self.metrics = None if job is None else JobMetrics(job)
        self._set_gauges()

    def starting(self, place: Place) -> None:
        """An actor's process is about to load the model; for the second time, where it was lost."""
        self.progress.actors_started += 1
        self.progress.actors_lost += place.actor in self.places
        sums = self.places.setdefault(place.actor, PlaceSums(node=place.node))
        sums.node, sums.starts = place.node, sums.starts + 1
        if not place.is_alone:
            self.starts["encoder"].begin(place.actor)
        self._set_gauges()

    def started(self, place: Place, settings: dict[str, str]) -> None:
        """An actor is ready, with these resolved settings."""
        self.progress.actors_ready += 1
        self.progress.signs += 1
        self.progress.settings = settings
        self.progress.ready_at = self.progress.ready_at or time.monotonic()
        self.places.setdefault(place.actor, PlaceSums(node=place.node)).device = settings["device"]
        if not place.is_alone:
            self.starts["encoder"].end(place.actor, time.monotonic())
        self._set_gauges()

    def tokenizer_starting(self, actor: str) -> None:
        """The process of a tokenizer without a model is about to load it."""
        self.progress.tokenizers_started += 1
        self.starts["tokenizer"].begin(actor)

    def tokenizer_started(self, actor: str) -> None:
        """It is ready."""
        self.progress.tokenizers_ready += 1
        self.progress.signs += 1
        self.starts["tokenizer"].end(actor, time.monotonic())

    def fail(self, reason: str, actor: str = "", kind: Kind = "encoder") -> None:
        """An actor could not be made ready; the first reason counts."""
        self.progress.failure = self.progress.failure or reason
        self.starts[kind].fail(actor)

    def settle(self, rows_left: int) -> None:
        """The run has ended well, with so many rows that are not committed, by whomever."""
        self.rows = self.progress.counts.input_rows + rows_left
        self._set_gauges()

    def _set_gauges(self) -> None:
        if self.metrics is not None:
            since = time.monotonic() - SILENT_SECONDS
            ready = sum(heard > since for heard in self.starts["encoder"].ready.values())
            self.metrics.set(actors_ready=ready, rows_left=max(0, self.rows - self.progress.counts.input_rows))

    def find_suspects(self, unit_ids: list[str]) -> list[str]:
        """Those of these units that were in hand at too many deaths to be begun once more."""
        return [unit_id for unit_id in unit_ids if self._count_attempts(unit_id) >= ATTEMPTS]

    def _count_attempts(self, unit_id: str) -> int:
        return sum(node not in self.leaving for node in self.attempts.get(unit_id, ()))

    def begin(self, unit_id: str, node: str = "") -> bool:
        """A unit is about to be read, tokenized or encoded on a node; False where that is leaving."""
        is_handed = unit_id in self.handed
        self.handed.discard(unit_id)
        if node in self.leaving:
            return False
        if unit_id in self.attempts and not is_handed:
            self._add(Counts(), Cost(unit_retries=1))
        self.attempts.setdefault(unit_id, []).append(node)
        self.progress.signs += 1
        return True

    def hand_over(self, unit_id: str, node: str = "") -> None:
        """A unit that was begun on a node waits for an encoder: no death that comes now had it in hand."""
        attempts = self.attempts.get(unit_id, [])
        if node in attempts:
            attempts.remove(node)
        self.handed.add(unit_id)
        self.progress.most_ahead = max(self.progress.most_ahead, len(self.handed))

    def forget(self, unit_id: str) -> None:
        """A unit cannot be read: it is no suspect."""
        self.attempts.pop(unit_id, None)

    def leave(self, nodes: set[str]) -> None:
        """These nodes are going, or gone, in good order: what was in hand there has not brought them down."""
        self.leaving |= nodes

    def note(self, unit_id: str, captions: list[int]) -> None:
        """These captions of the unit are about to be computed."""
        self.in_hand[unit_id] = captions
        self.progress.signs += 1

    def take_note(self, unit_id: str) -> list[int]:
        """The captions last noted, and forget them."""
        return self.in_hand.pop(unit_id, [])

    def end(self, unit_id: str, actor: str, counts: Counts, cost: Cost, findings: Findings, node: str = "") -> bool:
        """A unit is committed by an actor, with what was counted of it. False where its node is leaving."""
        self.attempts.pop(unit_id, None)
        self.handed.discard(unit_id)
        for starts in self.starts.values():
            starts.forgive()
        now = self.progress.ended_at = time.monotonic()
        self.progress.signs += 1
        cost += Cost(units=1)
        self._add(counts, cost)
        self.findings.add(findings)
        self._remember(now - self.began, counts, cost)
        if actor in self.places:  # a ledger that was lost itself has not heard of it
            self.places[actor].add(counts, cost)
        if actor in (ready := self.starts["encoder"].ready):
            ready[actor] = now
        self._set_gauges()
        return node not in self.leaving

    def _add(self, counts: Counts, cost: Cost) -> None:
        self.progress.counts += counts
        self.progress.cost += cost
        if self.metrics is not None:
            self.metrics.add(counts, cost)

    def _remember(self, now: float, counts: Counts, cost: Cost) -> None:
        """A unit was written until now, computed before that, and waited for before that."""
        end = now
        for phase in ("writing_seconds", "computing_seconds", "waiting_seconds"):
            start = end - getattr(cost, phase)
            self.history.add(phase, end - start, start, end)
            if phase == "computing_seconds":
                self.history.add("captions", counts.captions, start, end)
                self.history.add("tokens", counts.new_tokens, start, end)
            end = start

    def read(self) -> Progress:
        """Progress so far; starts that failed are one actor's, in a row, since a unit was committed.

        Actors are left of the kind of which one failed for good; of encoders where none did.
        """
        failing: Kind = max(self.starts, key=lambda kind: self.starts[kind].failures)
        self.progress.failing, self.progress.failed_starts = failing, self.starts[failing].failures
        failed = [starts.left for starts in self.starts.values() if starts.has_failed]
        self.progress.actors_left = min(failed, default=self.starts["encoder"].left)
        return self.progress

    def read_details(self) -> Details:
        """What is told once a minute."""
        return Details(history=self.history, findings=self.findings, places=sum_places(self.places.values()))


def start_ledger(job: str | None, rows: int) -> Any:
    """A Ledger as a Ray actor, beside its driver wherever that is possible: other nodes may vanish sooner."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(Ledger).options(**options).remote(job, rows)
