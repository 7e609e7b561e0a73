"""The report of a run: rates, exit codes, text and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from pipelines.commit.counts import Cost, Counts
from pipelines.progress.findings import Findings
from pipelines.progress.ledger import Ledger, Progress
from pipelines.progress.report import EncodeReport
from tests.pipelines.run.test_suspects import make_record


def make_report(died: int = 0, unreadable: dict[str, str] | None = None) -> EncodeReport:
    cost = Cost(units=1, busy_seconds=2.0, busy_cpu_seconds=3.0)
    return EncodeReport(
        output="out",
        totals={"shards": 1} | asdict(make_record(died).counts),
        unreadable=unreadable or {},
        progress=Progress(counts=Counts(captions=20, tokens=900), cost=cost, ready_at=5.0, ended_at=8.0),
        is_finished=not unreadable,
    )


def test_rates_are_of_the_running_phase() -> None:
    report = make_report()
    assert report.run_seconds == 3.0
    assert report.tokens_per_second == 300.0
    assert report.cores_used == 1.5


@pytest.mark.parametrize(
    ("report", "code"),
    [(make_report(), 0), (make_report(died=2), 3), (make_report(died=2, unreadable={"a": "a: torn"}), 4)],
)
def test_the_exit_code_says_the_worst(report: EncodeReport, code: int) -> None:
    assert report.exit_code == code


def test_the_text_names_what_was_not_read_and_what_to_do() -> None:
    text = str(make_report(unreadable={"a.parquet": "a.parquet: torn"}))
    assert "not read: a.parquet: torn" in text
    assert "run the same command again" in text


def test_the_json_holds_totals_rates_and_versions() -> None:
    content = json.loads(make_report().to_json())
    assert content["totals"]["captions"] == 20
    assert content["tokens_per_second"] == 300.0
    assert {"torch", "ray", "t5enc"} <= set(content["versions"])


def test_a_unit_in_hand_at_two_deaths_is_a_suspect_until_it_ends() -> None:
    ledger = Ledger()
    ledger.begin("u")
    ledger.begin("v")
    assert ledger.find_suspects(["u", "v", "w"]) == []
    ledger.begin("u")
    assert ledger.find_suspects(["u", "v", "w"]) == ["u"]
    ledger.end("u", "actor", Counts(captions=4, tokens=40), Cost(), Findings())
    assert ledger.find_suspects(["u", "v", "w"]) == []
    assert (ledger.read().counts.captions, ledger.read().counts.tokens, ledger.read().cost.units) == (4, 40, 1)


def test_a_note_is_taken_once() -> None:
    ledger = Ledger()
    ledger.note("u", [1, 2])
    assert ledger.take_note("u") == [1, 2]
    assert ledger.take_note("u") == []
