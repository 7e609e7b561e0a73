"""What a batch run tells Prometheus, through the metrics of the Ray that it works on.

The run's ledger tells all of it: one process that outlives every actor, so that totals never fall when an actor is
lost. Ray puts `ray_` before each name and `_total` behind a counter's, and serves them on the node of the ledger. The
tag is `encode_job`, the first letters of the job's fingerprint: `job` is Prometheus' own.
"""

from __future__ import annotations

from collections.abc import Mapping

# Gains of a unit, as the ledger is told of them, and the counters that they are added to.
COUNTERS = {
    "useful_tokens": ("t5enc_useful_tokens", "Tokens of captions that the model computed.", {}),
    "stream_tokens": ("t5enc_stream_tokens", "Tokens of streams that the model computed, empty places too.", {}),
    "captions": ("t5enc_captions", "Captions in committed shards.", {}),
    "input_rows": ("t5enc_rows", "Input rows of committed shards.", {}),
    "units": ("t5enc_shards", "Committed shards.", {}),
    "size": ("t5enc_bytes_written", "Bytes of committed shards.", {}),
    "errors": ("t5enc_errors", "Captions without an embedding.", {}),
    "died": ("t5enc_quarantined", "Captions that killed the encoder's process.", {}),
    "truncated": ("t5enc_truncated", "Captions that were cut.", {}),
    "store_retries": ("t5enc_retries", "Repetitions: of requests to the store, of units.", {"kind": "store"}),
    "unit_retries": ("t5enc_retries", "Repetitions: of requests to the store, of units.", {"kind": "unit"}),
    "waiting_seconds": ("t5enc_seconds", "Seconds of actors by phase.", {"phase": "waiting"}),
    "computing_seconds": ("t5enc_seconds", "Seconds of actors by phase.", {"phase": "computing"}),
    "writing_seconds": ("t5enc_seconds", "Seconds of actors by phase.", {"phase": "writing"}),
}
GAUGES = {
    "t5enc_actors_ready": "Actors whose model is loaded, but for those of a single suspect.",
    "t5enc_rows_left": "Input rows whose shards are not committed.",
}


class JobMetrics:
    """The figures of one run, in a process of Ray; where Ray has no metrics agent, they go nowhere."""

    def __init__(self, job: str) -> None:
        """`job` is the job's fingerprint, or the beginning of it."""
        from ray.util.metrics import Counter, Gauge

        self._tags = {"encode_job": job[:12]}
        self._counters = {name: Counter(name, text, ("encode_job", *tags)) for name, text, tags in COUNTERS.values()}
        self._gauges = {name: Gauge(name, text, ("encode_job",)) for name, text in GAUGES.items()}

    def add(self, gains: Mapping[str, float]) -> None:
        """Add what was gained; what has no counter is passed over."""
        for gain, (name, _, tags) in COUNTERS.items():
            if gains.get(gain, 0) > 0:  # Ray refuses to add nothing
                self._counters[name].inc(gains[gain], self._tags | tags)

    def set(self, **gauges: float) -> None:
        """Set gauges by their name without `t5enc_`."""
        for name, value in gauges.items():
            self._gauges[f"t5enc_{name}"].set(value, self._tags)
