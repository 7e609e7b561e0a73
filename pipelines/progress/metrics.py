"""What a batch run tells Prometheus, through the metrics of the Ray that it works on.

The run's ledger tells all of it: one process that outlives every actor, so that totals never fall when an actor is
lost. Ray puts `ray_` before each name and `_total` behind a counter's, and serves them on the node of the ledger. The
tag is `encode_job`, the first letters of the job's fingerprint: `job` is Prometheus' own.
"""

from __future__ import annotations

from dataclasses import asdict

from pipelines.commit.counts import METRICS, Cost, Counts, Metric

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
        self._counters = {one.name: Counter(one.name, one.text, tuple(self._tag(one))) for one in METRICS.values()}
        self._gauges = {name: Gauge(name, text, ("encode_job",)) for name, text in GAUGES.items()}

    def _tag(self, metric: Metric) -> dict[str, str]:
        return self._tags | dict([metric.label] if metric.label else [])

    def add(self, counts: Counts, cost: Cost) -> None:
        """Add what was counted; what has no counter is passed over."""
        amounts = asdict(counts) | asdict(cost)
        for name, metric in METRICS.items():
            if amounts[name] > 0:  # Ray refuses to add nothing
                self._counters[metric.name].inc(amounts[name], self._tag(metric))

    def set(self, **gauges: float) -> None:
        """Set gauges by their name without `t5enc_`."""
        for name, value in gauges.items():
            self._gauges[f"t5enc_{name}"].set(value, self._tags)
