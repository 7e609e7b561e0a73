"""The dashboard and the alerts ask for nothing that a real job and a real service do not tell Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.commit.counts import METRICS
from serve_app.http.metering import DEFINITIONS
from serve_app.http.replies import REASONS
from serve_app.served.service import ServiceLimits
from tests.cluster.monitoring.prometheus import Prometheus, find_program, run_prometheus
from tests.cluster.patience import wait_until

pytest.importorskip("ray.serve", reason="needs ray[data,serve]")

REPOSITORY = Path(__file__).resolve().parents[3]
CLUSTER = REPOSITORY / "cluster"
DASHBOARD = json.loads((CLUSTER / "grafana-dashboard.json").read_text(encoding="utf-8"))
RULES = [rule for group in yaml.safe_load((CLUSTER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\bray_[a-z0-9_]+")
# A figure that is chosen by labels, one such choice, and labels that figures are summed or joined by.
CHOSEN = re.compile(r"(ray_[a-z0-9_]+)\{([^}]+)\}")
CHOICE = re.compile(r'(\w+)=~?"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")
# What Ray tells only where there is a card: these names are looked up in Ray itself.
GPU_PANELS = ("GPU at work", "GPU memory")


@dataclass
class Watched:
    """A job that was encoded while Prometheus looked, and what it said in the end."""

    prometheus: Prometheus
    report: dict[str, Any]

    def ask(self, expression: str) -> list[tuple[dict[str, str], list[float]]]:
        """What a panel's expression gave, with all jobs chosen."""
        return self.prometheus.ask(expression.replace("$__rate_interval", "30s").replace("$encode_job", ".*"))

    def read(self, name: str, **labels: str) -> float:
        """The last value of a counter of the job."""
        chosen = ",".join(f'{label}="{value}"' for label, value in labels.items())
        found = self.ask(f"sum by (encode_job) ({name}{{{chosen}}})")
        assert [metric for metric, _ in found] == [{"encode_job": self.report["job"]["fingerprint"][:12]}], name
        return found[0][1][-1]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program = find_program("prometheus")
    if program is None:
        pytest.skip("needs Prometheus (apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("watched")
    command = [sys.executable, "-m", "tests.cluster.monitoring.busy_ray", str(folder)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as busy:
        assert busy.stdin is not None
        assert busy.stdout is not None
        try:
            url = next(line for line in busy.stdout if line.startswith("http")).strip()
            with run_prometheus(program, folder, url.split("/")[2]) as prometheus:
                report = json.loads(next(line for line in busy.stdout if line.startswith("{")))
                wait_for_scrapes(prometheus, 5)
                yield Watched(prometheus, report)
        finally:
            busy.stdin.close()
            busy.wait(timeout=120)


def wait_for_scrapes(prometheus: Prometheus, more: int) -> None:
    """Return when Prometheus has looked so many times again."""
    before = prometheus.count_scrapes()
    wait_until(lambda: prometheus.count_scrapes() >= before + more, "Prometheus has stopped to look")


def is_of_gpus(title: str) -> bool:
    return title in GPU_PANELS


@pytest.mark.cluster
@pytest.mark.parametrize(("title", "target"), [pair for pair in TARGETS if not is_of_gpus(pair[0])])
def test_every_panel_shows_something_of_a_real_run(watched: Watched, title: str, target: dict[str, str]) -> None:
    found = [(metric, values) for metric, values in watched.ask(target["expr"]) if values]
    assert found, f"{title}: {target['expr']} gave nothing"
    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert all(metric.get(label) for metric, _ in found), f"{title}: no label {label} in {found[0][0]}"


@pytest.mark.cluster
def test_what_prometheus_counted_is_what_the_report_says(watched: Watched) -> None:
    progress = watched.report["progress"]
    counted = {
        "captions": "captions",
        "rows": "input_rows",
        "shards": "units",
        "bytes_written": "size",
        "errors": "errors",
        "quarantined": "died",
        "truncated": "truncated",
        "useful_tokens": "useful_tokens",
        "stream_tokens": "stream_tokens",
    }
    for name, told in counted.items():
        assert watched.read(f"ray_t5enc_{name}_total") == progress[told], name
    for phase in ("waiting", "computing", "writing"):
        seconds = watched.read("ray_t5enc_seconds_total", phase=phase)
        assert seconds == pytest.approx(progress[f"{phase}_seconds"]), phase
    assert watched.read("ray_t5enc_retries_total", kind="unit") == progress["unit_retries"] > 0
    assert (progress["died"], progress["errors"]) == (1, 2)
    assert progress["truncated"] > 0


@pytest.mark.cluster
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_figures_that_a_real_run_tells(watched: Watched, rule: dict[str, Any]) -> None:
    for name in NAME.findall(rule["expr"]):
        assert watched.ask(name), f"{rule['alert']}: nothing tells {name}"
    watched.ask(rule["expr"])


@pytest.mark.cluster
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_labels_that_a_real_run_tells(watched: Watched, rule: dict[str, Any]) -> None:
    chosen = [(name, label) for name, choices in CHOSEN.findall(rule["expr"]) for label, _ in CHOICE.findall(choices)]
    labels = {label.strip() for labels in GROUPED.findall(rule["expr"]) for label in labels.split(",")}
    grouped = [(name, label) for name in NAME.findall(rule["expr"]) for label in labels]
    for name, label in chosen + grouped:
        assert all(metric.get(label) for metric, _ in watched.ask(name)), f"{rule['alert']}: {name} has no {label}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_chooses_values_of_labels_that_are_told(rule: dict[str, Any]) -> None:
    for name, choices in CHOSEN.findall(rule["expr"]):
        for label, values in CHOICE.findall(choices):
            assert set(values.split("|")) <= list_values(name, label), f"{rule['alert']}: {label} of {name}"


def list_values(name: str, label: str) -> set[str]:
    """Values that a counter's label can have."""
    counter = name.removeprefix("ray_").removesuffix("_total")
    if counter in DEFINITIONS:
        assert (label, label in DEFINITIONS[counter].tags) == ("err", True)
        return set(REASONS.values())
    labels = {metric.label for metric in METRICS.values() if metric.name == counter and metric.label is not None}
    return {value for name, value in labels if name == label}


@pytest.mark.cluster
def test_alerts_fire_for_what_happened_and_for_nothing_else(watched: Watched) -> None:
    fired = {rule["alert"] for rule in RULES if any(values for _, values in watched.ask(rule["expr"]))}
    assert {"T5encQuarantined"} <= fired
    assert not fired & {"T5encQueueFull", "T5encRefusing", "T5encFailing", "T5encStoreRetries", "T5encErrors"}


@pytest.mark.parametrize(("title", "target"), [pair for pair in TARGETS if is_of_gpus(pair[0])])
def test_panels_of_gpus_ask_for_what_rays_agent_defines(title: str, target: dict[str, str]) -> None:
    agent = pytest.importorskip("ray.dashboard.modules.reporter.reporter_agent", reason="needs ray[default]")
    consts = pytest.importorskip("ray.dashboard.consts", reason="needs ray[default]")
    for name in NAME.findall(target["expr"]):
        assert name.removeprefix("ray_") in agent.METRICS_GAUGES
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(consts.GPU_TAG_KEYS)


def test_the_bound_of_the_queue_is_the_services_own() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "T5encQueueFull"]
    assert f"0.8 * {ServiceLimits().queue_tokens}" in rule["expr"]


def test_panels_have_room_and_say_what_they_mean() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"] for panel in PANELS)


CHECKS = [
    ("check", "rules", "alerts.yml"),
    ("check", "config", "prometheus.yml"),
    ("test", "rules", "../tests/cluster/monitoring/alert_cases.yml"),
]


@pytest.mark.parametrize("arguments", CHECKS, ids=" ".join)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    program = find_program("promtool")
    if program is None:
        pytest.skip("needs promtool (apt-get install prometheus)")
    done = subprocess.run([program, *arguments], cwd=CLUSTER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
