"""report.html says what report.json says, whole and legible, with nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import reduce
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipelines.commit.counts import Cost, Counts
from pipelines.progress.charts import draw_bars, find_edges, merge_slices, round_up, show_seconds, show_short
from pipelines.progress.findings import Findings
from pipelines.progress.history import History
from pipelines.progress.ledger import Details, Progress
from pipelines.progress.page import describe_lengths, describe_rates, render_page
from pipelines.progress.places import PlaceSums
from pipelines.progress.report import PAGE, REPORT, EncodeReport, read_report, read_runs, write_report
from pipelines.progress.storage_error import StorageError
from pipelines.stores.store import LocalStore
from tests.pipelines.run.test_suspects import make_record

NASTY = "<script>alert('a & b')</script>.parquet"
SHOWN = (
    "totals.captions", "totals.encoded", "totals.errors", "totals.died", "totals.tokens", "totals.shards",
    "totals.size", "totals.truncated", "totals.longest", "max_length", "progress.captions", "run_seconds",
    "wall_seconds", "tokens_per_second", "fill", "progress.waiting_seconds", "progress.computing_seconds",
    "progress.writing_seconds", "progress.actors_lost", "progress.unit_retries", "progress.store_retries",
    "progress.useful_tokens", "progress.stream_tokens", "progress.truncated", "cores_used_while_encoding",
    "details.findings.reasons.null caption.count", "storage_error.tokens", "storage_error.median", "storage_error.p99",
    "storage_error.worst",
)  # fmt: skip


def make_details(seconds: int = 100) -> Details:
    history, findings = History(), Findings()
    for second in range(0, seconds, 10):
        history.add("tokens", 1000.0 + second, second, second + 10)
        history.add("captions", 20.0, second, second + 10)
        history.add("computing_seconds", 8.0, second + 2, second + 10)
        history.add("waiting_seconds", 2.0, second, second + 2)
    findings.count_lengths([1, 5, 30, 512, 600, 5000], 512)
    findings.add_reason("null caption", 4, [(NASTY, 7, 0), ("b.parquet", 9, 2)])
    counts, cost = Counts(captions=200, tokens=9000), Cost(units=10)
    places = [PlaceSums(node="node-1", device="NVIDIA H100", starts=2, counts=counts, cost=cost)]
    return Details(history=history, findings=findings, places=places)


def make_report(**changes: Any) -> EncodeReport:
    cost = Cost(
        useful_tokens=8800, stream_tokens=9900, units=10, waiting_seconds=20.0, computing_seconds=80.0,
        writing_seconds=7.5, unit_retries=2, store_retries=3, busy_seconds=80.0, busy_cpu_seconds=100.0,
    )  # fmt: skip
    counts = Counts(captions=200, tokens=9000, truncated=4)
    progress = Progress(
        counts=counts, cost=cost, ready_at=5.0, ended_at=105.0, actors_lost=1, settings={"device": "NVIDIA H100"}
    )
    usual: dict[str, Any] = {
        "output": "s3://bucket/out",
        "totals": {"shards": 1} | asdict(make_record(1).counts),
        "max_length": 512,
        "progress": progress,
        "details": make_details(),
        "job": {
            "model": "google/t5-v1_1-xxl",
            "inputs": ["in"],
            "more_inputs": 3,
            "storage_dtype": "int8g32",
            "fingerprint": "f00d",
        },
        "began": "2026-11-27T01:00:00+00:00",
        "unreadable": {NASTY: "torn & short"},
        "wall_seconds": 110.5,
        "storage_error": StorageError(worst=0.0123, bars={-240: 90, -210: 10}),
        "is_finished": True,
    }
    return EncodeReport(**(usual | changes))


def to_content(report: EncodeReport) -> dict[str, Any]:
    return dict(json.loads(report.to_json()))


class Page(HTMLParser):
    """Elements of a page: numbers with where they come from, all tags, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "data":
            self.numbers.append((str(found["data-of"]), str(found["value"])))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_number_of_the_page_is_that_of_the_json() -> None:
    content = to_content(make_report())
    page = Page(render_page(content))
    assert set(SHOWN) <= {path for path, _ in page.numbers}
    for path, value in page.numbers:
        assert value == str(reduce(lambda found, name: found[name], path.split("."), content)), path


def test_names_of_the_input_are_text_and_nothing_else() -> None:
    html = render_page(to_content(make_report()))
    assert "<script" not in html
    assert f"{NASTY}, row 7; b.parquet, row 9, caption 2" in Page(html).text


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    html = render_page(to_content(make_report()))
    assert re.findall(r"https?://|url\(|@import|src=|href=", html) == []


def test_charts_have_words_and_tables_have_heads() -> None:
    page = Page(render_page(to_content(make_report())))
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert len(labels) == 4
    assert labels[0] == "Useful tokens a second over the time of the run: at most 109, at the end 109"
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")


def test_a_page_of_nothing_says_so() -> None:
    page = Page(render_page(to_content(make_report(progress=Progress(), details=Details(), unreadable={}))))
    assert "Nothing was committed in this run." in page.text
    assert "Every caption of this run has its embedding." in page.text


def test_a_run_that_goes_on_says_so_and_is_looked_at_again() -> None:
    running = render_page(to_content(make_report(is_finished=False, is_running=True)))
    assert 'http-equiv="refresh"' in running
    assert ">running<" in running
    assert 'http-equiv="refresh"' not in render_page(to_content(make_report()))


def test_a_page_stays_small_however_much_went_wrong() -> None:
    details = make_details(seconds=1_000_000)
    for place in range(100):
        details.findings.add_reason(
            f"reason {place}", 10**6, [("a/long/source/name.parquet", row, 0) for row in range(5)]
        )
    places = [PlaceSums(node=f"node-{place}", device="NVIDIA H100") for place in range(1000)]
    report = make_report(
        details=Details(history=details.history, findings=details.findings, places=places),
        unreadable={f"part-{place}.parquet": "torn" for place in range(10_000)},
    )
    assert len(render_page(to_content(report))) < 250_000


def test_runs_of_the_same_job_are_remembered_and_a_lost_one_is_called_so(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert read_runs(read_report(store, "f00d")) == []
    write_report(store, make_report(is_finished=False, is_running=True))
    write_report(store, make_report(earlier_runs=read_runs(read_report(store, "f00d"))))
    assert [run["state"] for run in read_runs(read_report(store, "f00d"))] == ["running", "finished"]
    assert "lost, or failed" in Page(store.read(PAGE).decode()).text
    assert read_runs(read_report(store, "another job")) == []
    store.replace(REPORT, b"{")
    assert read_runs(read_report(store, "f00d")) == []


def test_rates_add_up_to_what_was_encoded() -> None:
    content = to_content(make_report())
    rates = describe_rates(content)
    assert rates is not None
    history = content["details"]["history"]
    seconds = history["end"] / len(rates["rows"])
    total = sum(float(row[1].replace(",", "")) * seconds for row in rates["rows"])
    assert total == pytest.approx(sum(history["columns"]["tokens"]), rel=0.01)


def test_bars_are_as_high_as_their_counts_and_change_at_the_cut() -> None:
    chart = draw_bars([10, 0, 5], width=16, cut=32, label="three bars")
    bars = re.findall(r'<rect class="bar (\w+)" .*?height="([\d.]+)"', chart)
    assert [style for style, _ in bars] == ["within", "within", "over"]
    heights = [float(height) for _, height in bars]
    assert heights[0] == pytest.approx(2 * heights[2])
    assert heights[1] == 0.0


def test_the_histogram_reaches_to_the_cut_and_names_its_bars() -> None:
    found = describe_lengths(to_content(make_report()))
    assert found is not None
    assert found["rows"] == [
        ("1 to 16", 2),
        ("17 to 32", 1),
        ("497 to 512", 1),
        ("593 to 608", 1),
        ("1,025 to 1,040", 1),
    ]


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 1), (0.0031, 0.004), (1, 1), (2.03, 2.5), (99.5, 100), (1200, 1500)]
)
def test_axes_end_at_round_numbers(value: float, expected: float) -> None:
    assert round_up(value) == pytest.approx(expected)


def test_numbers_are_short() -> None:
    assert [show_short(value) for value in (0.25, 950, 1234, 5.6e7)] == ["0.25", "950", "1.23k", "56M"]
    assert [show_seconds(value) for value in (5, 150, 9000, 200_000)] == ["5 s", "2.5 min", "2.5 h", "2.31 d"]


def test_slices_are_merged_with_their_sum() -> None:
    assert merge_slices([1.0] * 7, 3) == [3.0, 3.0, 1.0]
    assert find_edges(3, width=2.0, end=4.5) == [0.0, 2.0, 4.0, 4.5]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser = pytest.importorskip("tests.serve_app.browser", reason="needs websockets")
    program = browser.find_browser()
    if program is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with browser.run_browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 400, 1280])
def test_no_window_is_too_narrow_and_the_browser_has_no_complaints(
    tab: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    earlier = [{"began": "2026-11-26T01:00:00+00:00", "state": "running", "wall_seconds": 60.0,
                "tokens_per_second": 5.0, "captions": 3, "units": 1}]  # fmt: skip
    (tmp_path / PAGE).write_text(render_page(to_content(make_report(earlier_runs=earlier))))
    tab.open((tmp_path / PAGE).as_uri(), width=width, scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground, ink = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (brightness(ground) > brightness(ink)) is (scheme == "light")
    assert (tab.complaints, tab.hosts) == ([], set())


def brightness(color: str) -> int:
    return sum(int(part) for part in re.findall(r"\d+", color)[:3])
