"""Gains of an actor while it encodes a unit."""

from __future__ import annotations

from t5enc.actor import EncoderActor


class Meter:
    """What an actor gains between two readings, as the ledger wants it."""

    def __init__(self, actor: EncoderActor) -> None:
        self.actor = actor
        self.before = self._measure()

    def read(self) -> dict[str, float]:
        """Differences since this meter was made."""
        return {name: value - self.before[name] for name, value in self._measure().items()}

    def _measure(self) -> dict[str, float]:
        counters = self.actor.encoder.counters
        return {
            "useful_tokens": counters.useful_tokens,
            "stream_tokens": counters.stream_tokens,
            "compiled_graphs": self.actor.encoder.compiled_graphs,
            "busy_seconds": self.actor.busy_seconds,
            "busy_cpu_seconds": self.actor.busy_cpu_seconds,
        }
