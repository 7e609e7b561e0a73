"""What a run tells Ray's metrics: the last of it too, and the same as its report says."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.commit.counts import METRICS, Cost, Counts
from pipelines.progress.metrics import GAUGES, JobMetrics
from t5enc.checkpoint.builtin import sample_captions
from tests.pipelines.conftest import WriteCaptions
from tests.pipelines.progress.test_page import Page

# Only for a test that would otherwise never end.
PATIENCE = 60.0


def read_metrics(url: str, job: str) -> Mapping[tuple[str, str], float]:
    """Values of a job by name and phase or kind, from what a node shows to Prometheus."""
    parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus-client")
    with urlopen(url) as answer:
        families = parser.text_string_to_metric_families(answer.read().decode())
    found: Counter[tuple[str, str]] = Counter()
    for sample in (sample for family in families for sample in family.samples):
        if sample.labels.get("encode_job") == job[:12]:
            found[sample.name, sample.labels.get("phase", sample.labels.get("kind", ""))] += sample.value
    return found


def run_job(write_captions: WriteCaptions, folder: Path) -> dict[str, Any]:
    """What report.json says of a job with a null caption and one that is too long."""
    inputs = str(write_captions([*sample_captions()[:80], None, "long " * 200]))
    options: dict[str, Any] = {"inputs": [inputs], "output": str(folder / "out"), "model": "builtin:tiny"}
    encode_parquet(EncodeJob.from_mapping(options | {"rows_per_shard": 10, "max_length": 64}))
    return dict(json.loads((folder / "out" / "report.json").read_text()))


@pytest.mark.usefixtures("in_process")
def test_the_parts_of_a_report_agree_with_each_other_and_with_its_page(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    report = run_job(write_captions, tmp_path)
    assert (report["progress"]["errors"], report["progress"]["truncated"]) == (1, 1)
    check_report(report, (tmp_path / "out" / "report.html").read_text())


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_a_node_shows_what_the_report_says_after_the_run_is_over(write_captions: WriteCaptions, tmp_path: Path) -> None:
    import ray

    report = run_job(write_captions, tmp_path)
    progress, job = report["progress"], report["job"]["fingerprint"]
    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    late = time.monotonic() + PATIENCE
    while (found := read_metrics(url, job))["ray_t5enc_shards_total", ""] < progress["units"]:
        assert time.monotonic() < late, found
        time.sleep(0.2)
    assert progress["units"] == 9
    for name, metric in METRICS.items():
        label = metric.label[1] if metric.label else ""
        assert found[f"ray_{metric.name}_total", label] == pytest.approx(progress[name]), name


def check_report(report: dict[str, Any], html: str) -> None:
    """Its parts agree with each other, and the page with them."""
    progress, details = report["progress"], report["details"]
    for name, column in details["history"]["columns"].items():
        assert sum(column) == pytest.approx(progress[name]), name
    assert sum(details["findings"]["lengths"].values()) == progress["captions"] - 1
    assert details["findings"]["reasons"]["null caption"]["count"] == 1
    assert sum(place["units"] for place in details["places"]) == progress["units"]
    numbers = dict(Page(html).numbers)
    assert numbers["progress.captions"] == str(progress["captions"])
    assert numbers["totals.tokens"] == str(report["totals"]["tokens"])


class Told:
    """As much of Ray's counters and gauges as is used."""

    values: Counter[tuple[str, tuple[str, ...]]]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0, "Ray refuses to add nothing"
        self.set(self.values[self.name, tuple(tags.values())] + value, tags)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tuple(tags) == self.tag_keys
        self.values[self.name, tuple(tags.values())] = value  # type: ignore[assignment]


def test_counts_are_added_under_the_jobs_first_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = pytest.importorskip("ray.util.metrics", reason="needs ray[data]")
    monkeypatch.setattr(metrics, "Counter", Told)
    monkeypatch.setattr(metrics, "Gauge", Told)
    Told.values = Counter()
    told = JobMetrics("0123456789abcdef")
    for _ in range(2):
        told.add(Counts(captions=3), Cost(store_retries=1, waiting_seconds=0.5, compiled_graphs=2))
    told.set(actors_ready=4, rows_left=0)
    job = "0123456789ab"
    assert Told.values == {
        ("t5enc_captions", (job,)): 6,
        ("t5enc_retries", (job, "store")): 2,
        ("t5enc_seconds", (job, "waiting")): 1.0,
        ("t5enc_actors_ready", (job,)): 4,
        ("t5enc_rows_left", (job,)): 0,
    }
    assert set(GAUGES) == {"t5enc_actors_ready", "t5enc_rows_left"}
