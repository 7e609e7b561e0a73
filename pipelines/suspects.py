"""Units that were in hand when their process died, more than once: each is encoded alone, to find who kills.

A process can die for many reasons, and Ray repeats whatever it had in hand, so a dead actor makes innocent units
suspects too. In a process of its own a suspect notes every stream before it runs. A stream that kills is taken
apart, and its captions run one by one; only a caption that kills alone, twice, is given up. A process that is lost
with its node teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipelines.cluster import Cluster
from pipelines.leaving import find_node, is_there
from pipelines.records import UnitRecord
from pipelines.shards import Caution
from pipelines.spans import SpanResult
from pipelines.units import Span, Unit
from pipelines.worker import SpanWorker
from t5enc.actor import EncoderActor
from t5enc.errors import DriverError, OutputError, SourceError, T5encError
from t5enc.options import EncoderOptions

# Deaths in a row that teach nothing: before any caption was in hand.
SILENT_DEATHS = 3
# Nodes that may be lost with a unit in hand before the run is given up, to go on when the same command runs again.
LOST_NODES = 10


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a process: with its node, or with these captions in hand."""

    with_node: bool
    in_hand: list[int]


class SuspectActor:
    """A process for one suspected unit."""

    def __init__(self, options: EncoderOptions, worker: SpanWorker) -> None:
        self.options = options
        self.worker = worker
        worker.is_alone = True

    def locate(self) -> str:
        """The node that it is on: asked before anything happens that could kill."""
        return find_node()

    def encode(self, span: Span, unit: Unit, caution: Caution) -> UnitRecord | T5encError:
        """Load the model and commit the unit; an error that would be raised anywhere is returned."""
        try:
            return self.worker.run_suspect(EncoderActor(self.options, self.worker), span, unit, caution)
        except T5encError as error:
            return error


def encode_suspect(cluster: Cluster, options: EncoderOptions, worker: SpanWorker, span: Span, unit: Unit) -> SpanResult:
    """Commit a suspected unit, whatever it takes, with a null row for each caption that kills alone."""
    caution = Caution()
    silent = lost = 0
    while silent < SILENT_DEATHS and lost < LOST_NODES:
        outcome = _attempt(cluster, options, worker, span, unit, caution)
        if isinstance(outcome, UnitRecord):
            return SpanResult(kind="unit", record=outcome)
        if isinstance(outcome, SourceError):
            return SpanResult(kind="unreadable", span=span, reason=str(outcome))
        if isinstance(outcome, T5encError):
            return SpanResult(kind="fatal", reason=str(outcome), exit_code=outcome.exit_code)
        if outcome.with_node:
            lost += 1
            continue
        silent = 0 if outcome.in_hand else silent + 1
        caution = learn(caution, outcome.in_hand)
    if lost == LOST_NODES:
        raise DriverError(f"{unit.name}: {lost} nodes were lost before it was encoded; run the same command again")
    raise OutputError(f"{unit.name}: the encoder's process died {silent} times before it encoded a caption")


def learn(caution: Caution, in_hand: list[int]) -> Caution:
    """What a death teaches: of several captions in hand, run each alone; one that was alone twice kills."""
    captions = frozenset(in_hand)
    if len(captions) > 1:
        return replace(caution, alone=caution.alone | captions)
    if captions <= caution.accused:
        return replace(caution, dead=caution.dead | captions)
    return replace(caution, alone=caution.alone | captions, accused=caution.accused | captions)


def _attempt(
    cluster: Cluster, options: EncoderOptions, worker: SpanWorker, span: Span, unit: Unit, caution: Caution
) -> UnitRecord | T5encError | Death:
    """The unit's record, an error, or how the process died."""
    import ray

    remote: Any = ray.remote(SuspectActor)
    actor = remote.options(**cluster.actor_options(), max_restarts=0).remote(options, worker)
    node = ""
    try:
        node = ray.get(actor.locate.remote())
        return ray.get(actor.encode.remote(span, unit, caution))  # type: ignore[no-any-return]
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError):
        in_hand = ray.get(worker.ledger.take_note.remote(unit.id))
        return Death(not node or not is_there(node), in_hand)
    finally:
        ray.kill(actor)
