"""Units that were in hand when their process died, more than once: each is encoded alone, to find who kills.

A process can die for many reasons, and Ray repeats whatever it had in hand, so a dead actor makes innocent units
suspects too. In a process of its own a suspect notes every stream before it runs. A stream that kills is taken
apart, and its captions run one by one; only a caption that kills alone is given up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.cluster import Cluster
from pipelines.manifest import UnitRecord
from pipelines.shards import Caution
from pipelines.units import Span, Unit
from pipelines.worker import SpanResult, SpanWorker
from t5enc.actor import EncoderActor
from t5enc.errors import OutputError, SourceError, T5encError
from t5enc.options import EncoderOptions

# Deaths in a row that teach nothing: before any caption was in hand.
SILENT_DEATHS = 3


class SuspectActor:
    """An EncoderActor for one suspected unit."""

    def __init__(self, options: EncoderOptions, worker: SpanWorker) -> None:
        self.actor = EncoderActor(options, worker)
        self.worker = worker

    def encode(self, span: Span, unit: Unit, caution: Caution) -> UnitRecord | T5encError:
        """Commit the unit; an error that would be raised anywhere is returned, a death is a death."""
        try:
            return self.worker.run_suspect(self.actor, span, unit, caution)
        except T5encError as error:
            return error


def encode_suspect(cluster: Cluster, options: EncoderOptions, worker: SpanWorker, span: Span, unit: Unit) -> SpanResult:
    """Commit a suspected unit, whatever it takes, with a null row for each caption that kills alone."""
    caution = Caution()
    silent = 0
    while silent < SILENT_DEATHS:
        outcome = _attempt(cluster, options, worker, span, unit, caution)
        if isinstance(outcome, UnitRecord):
            return SpanResult(kind="unit", record=outcome)
        if isinstance(outcome, SourceError):
            return SpanResult(kind="unreadable", span=span, reason=str(outcome))
        if isinstance(outcome, T5encError):
            return SpanResult(kind="fatal", reason=str(outcome), exit_code=outcome.exit_code)
        silent = 0 if outcome else silent + 1
        caution = learn(caution, outcome)
    raise OutputError(f"{unit.name}: the encoder's process died {silent} times before it encoded a caption")


def learn(caution: Caution, in_hand: list[int]) -> Caution:
    """What a death teaches: of several captions in hand, run each alone; one alone is the one that kills."""
    if len(in_hand) == 1 and (in_hand[0] in caution.alone):
        return replace(caution, dead=caution.dead | set(in_hand))
    return replace(caution, alone=caution.alone | set(in_hand))


def _attempt(
    cluster: Cluster, options: EncoderOptions, worker: SpanWorker, span: Span, unit: Unit, caution: Caution
) -> UnitRecord | T5encError | list[int]:
    """The unit's record, an error, or the captions that were in hand when the process died."""
    import ray

    remote: Any = ray.remote(SuspectActor)
    actor = remote.options(num_cpus=cluster.cpus_per_actor, num_gpus=cluster.gpus_per_actor, max_restarts=0).remote(
        options, worker
    )
    try:
        return ray.get(actor.encode.remote(span, unit, caution))  # type: ignore[no-any-return]
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError):
        return ray.get(worker.ledger.take_note.remote(unit.id))  # type: ignore[no-any-return]
    finally:
        ray.kill(actor)
