"""What a terminal shows of a run, wide or narrow."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.commands.display import LINE_SECONDS, describe, fit, show_progress
from pipelines.commit.counts import Counts
from pipelines.progress.ledger import Progress


def make_run(*, is_ready: bool = True, doing: str = "") -> Any:
    """One that was ready three seconds ago."""
    files = SimpleNamespace(total_rows=60_000)
    ready = time.perf_counter() - 3 if is_ready else None
    return SimpleNamespace(ready=ready, rows_before=0, doing=doing, resolved=SimpleNamespace(files=files))


def show(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line at a terminal of so many columns."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(width)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with show_progress() as on_progress:
        on_progress(Progress(), make_run(is_ready=False))
        on_progress(Progress(counts=Counts(input_rows=1000, captions=1000, tokens=32_000, errors=7)), make_run())
    lines = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err))
    return next(line for line in reversed(lines) if line.strip())


@pytest.mark.parametrize("width", [40, 60, 80, 99, 100, 120, 200])
def test_state_and_rows_are_whole_at_every_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = show(width, monkeypatch, capsys)
    assert len(line.rstrip()) <= width
    assert re.match(r"encoding .*1000/60000 .*captions/s", line)
    assert "…" not in line


def test_a_wide_terminal_shows_it_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = show(200, monkeypatch, capsys)
    assert re.search(
        r"━ +1000/60000 \d+ captions/s, ETA .*, 7 without embedding, .* useful tokens/s, streams .* full", line
    )


def test_a_line_has_as_many_parts_as_have_room() -> None:
    parts = ["ten signs.", "five.", "a"]
    assert [fit(parts, room) for room in (-1, 9, 10, 16, 17, 19, 20)] == [
        *["", "", "ten signs.", "ten signs.", "ten signs., five.", "ten signs., five."],
        "ten signs., five., a",
    ]


def test_a_log_shows_everything() -> None:
    assert describe(Progress(), make_run(is_ready=False)) == "loading the model"
    assert describe(Progress(), make_run()).startswith("0 captions/s, ETA unknown, 0 useful tokens/s, streams ")


def test_another_step_than_encoding_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as on_progress:
        on_progress.last -= LINE_SECONDS  # type: ignore[attr-defined]
        looking = Progress(counts=Counts(input_rows=1000))
        on_progress(looking, make_run(is_ready=False, doing="looking for repeated captions"))
    assert capsys.readouterr().err == "looking for repeated captions: 1,000/60,000 rows\n"
