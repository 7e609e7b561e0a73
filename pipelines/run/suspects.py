"""Units that were in hand when their process died, more than once: each is encoded alone, to find who kills.

A process can die for many reasons, and Ray repeats whatever it had in hand, so a dead actor makes innocent units
suspects too. In a process of its own a suspect notes every stream before it runs. A stream that kills is taken
apart, and its captions run one by one; only a caption that kills alone, twice, is given up, the second time on
another node where one is free. A process that is lost with its node, or for want of memory, accuses nobody.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.actors.shards import Caution
from pipelines.actors.tasks import SpanResult
from pipelines.actors.worker import SpanWorker
from pipelines.commit.records import UnitRecord
from pipelines.nodes.leaving import find_node, is_there
from pipelines.nodes.shares import Cluster
from pipelines.plan.units import Span, Unit
from t5enc.actor import EncoderActor
from t5enc.errors import DriverError, OutputError, SourceError, T5encError
from t5enc.options import EncoderOptions

# Deaths in a row that teach nothing: with no caption in hand.
SILENT_DEATHS = 3
# Deaths because a node's memory was used up.
MEMORY_DEATHS = 3
# Nodes that may be lost with the same captions in hand: where a process's limit is its node's, as in a container, a
# unit that does not fit takes the node with it.
SAME_LOSSES = 3
# Nodes that may be lost with a unit in hand before the run is given up, to go on when the same command runs again.
LOST_NODES = 10
# How Ray labels each node with its name.
NODE_LABEL = "ray.io/node-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The end of a process on a node: with it, or for want of memory, or with these captions in hand."""

    with_node: bool = False
    of_memory: bool = False
    in_hand: list[int] = field(default_factory=list)
    node: str = ""

    @property
    def accuses(self) -> bool:
        """Whether what was in hand may have killed."""
        return not self.with_node and not self.of_memory


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
    deaths: list[Death] = []
    while True:
        check_deaths(unit, deaths)
        avoided = deaths[-1].node if deaths else ""
        outcome = _attempt(cluster, options, worker, span, unit, caution, avoided)
        if isinstance(outcome, UnitRecord):
            return SpanResult(kind="unit", record=outcome)
        if isinstance(outcome, SourceError):
            return SpanResult(kind="unreadable", span=span, reason=str(outcome))
        if isinstance(outcome, T5encError):
            return SpanResult.fatal(outcome)
        deaths.append(outcome)
        if outcome.accuses:
            caution = learn(caution, outcome.in_hand)


def check_deaths(unit: Unit, deaths: list[Death]) -> None:
    """OutputError where one more attempt would end as these did, DriverError where it may not."""
    lost = [death for death in deaths if death.with_node]
    recent = [death for death in deaths if death.accuses][-SILENT_DEATHS:]
    if sum(death.of_memory for death in deaths) >= MEMORY_DEATHS:
        raise OutputError(
            f"{unit.name}: the unit does not fit in memory: {MEMORY_DEATHS} processes were ended as their node's was "
            "used up; lower rows_per_shard or give actors more memory"
        )
    if max(Counter(tuple(death.in_hand) for death in lost if death.in_hand).values(), default=0) >= SAME_LOSSES:
        raise OutputError(
            f"{unit.name}: {SAME_LOSSES} nodes were lost with the same captions of it in hand: they were taken away, "
            "or it brings its node down; run the same command again, give actors more memory or lower rows_per_shard"
        )
    if len(lost) >= LOST_NODES:
        raise DriverError(f"{unit.name}: {len(lost)} nodes were lost before it was encoded; run the same command again")
    if len(recent) == SILENT_DEATHS and not any(death.in_hand for death in recent):
        raise OutputError(
            f"{unit.name}: the encoder's process died {SILENT_DEATHS} times with no caption in hand: while it loaded "
            "the model, or read or wrote the unit; lower rows_per_shard or give actors more memory"
        )


def learn(caution: Caution, in_hand: list[int]) -> Caution:
    """What a death teaches: of several captions in hand, run each alone; one that was alone twice kills."""
    captions = frozenset(in_hand)
    if len(captions) > 1:
        return replace(caution, alone=caution.alone | captions)
    if captions <= caution.accused:
        return replace(caution, dead=caution.dead | captions)
    return replace(caution, alone=caution.alone | captions, accused=caution.accused | captions)


def avoid_node(options: dict[str, Any], node: str) -> dict[str, Any]:
    """An actor's options that prefer any other node than this one, and take it where no other will do."""
    if not node:
        return options
    labels = options.get("label_selector", {})
    others = {"label_selector": labels | {NODE_LABEL: f"!{node}"}, "fallback_strategy": [{"label_selector": labels}]}
    return options | others


def _attempt(
    cluster: Cluster,
    options: EncoderOptions,
    worker: SpanWorker,
    span: Span,
    unit: Unit,
    caution: Caution,
    avoided: str,
) -> UnitRecord | T5encError | Death:
    """The unit's record, an error, or how the process died."""
    import ray

    remote: Any = ray.remote(SuspectActor)
    actor_options = avoid_node(cluster.actor_options(), avoided)
    actor = remote.options(**actor_options, max_restarts=0).remote(options, worker)
    node = ""
    try:
        node = ray.get(actor.locate.remote())
        return ray.get(actor.encode.remote(span, unit, caution))  # type: ignore[no-any-return]
    except ray.exceptions.OutOfMemoryError:
        ray.get(worker.ledger.take_note.remote(unit.id))
        return Death(of_memory=True, node=node)
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError):
        in_hand = ray.get(worker.ledger.take_note.remote(unit.id))
        return Death(with_node=not node or not is_there(node), in_hand=in_hand, node=node)
    finally:
        ray.kill(actor)
