"""What an actor has computed so far; read before and after a unit, the difference is what the unit took."""

from __future__ import annotations

from pipelines.commit.counts import Cost
from t5enc.actor import EncoderActor


def read_throughput(actor: EncoderActor) -> Cost:
    """Tokens, seconds and compiled graphs since the actor was made."""
    counters = actor.encoder.counters
    return Cost(
        useful_tokens=counters.useful_tokens,
        stream_tokens=counters.stream_tokens,
        compiled_graphs=actor.encoder.compiled_graphs,
        busy_seconds=actor.busy_seconds,
        busy_cpu_seconds=actor.busy_cpu_seconds,
    )
