"""The watch ends a run that gets nowhere, in whatever thread that runs, signals or not."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.ledger import Progress
from pipelines.watch import FAILED_STARTS, Watch
from t5enc.errors import DriverError, OutputError

TOO_MANY = Progress(actors_started=FAILED_STARTS + 1)


@pytest.fixture
def ignored_interrupts() -> Iterator[None]:
    """As a script's background jobs have it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def run_for_ever(progress: Progress) -> None:
    """A run that waits for work that never comes, under a watch that reads this progress."""
    watch = Watch(run=None, ledger=None, on_progress=None, actors=1, seconds=0.01)  # type: ignore[arg-type]
    watch._read = lambda: progress  # type: ignore[method-assign]
    with watch:
        for _ in range(3000):
            time.sleep(0.01)


@pytest.mark.usefixtures("ignored_interrupts")
def test_a_run_whose_processes_all_die_is_ended_where_interrupts_are_ignored() -> None:
    with pytest.raises(DriverError, match="4 encoder processes died while loading the model"):
        run_for_ever(TOO_MANY)


def test_a_run_in_another_thread_is_ended_there() -> None:
    ended: list[Any] = []

    def run() -> None:
        try:
            run_for_ever(TOO_MANY)
        except DriverError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=20)
    assert len(ended) == 1


def test_an_error_of_the_run_itself_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="its own"):
        fail_under_watch()


def fail_under_watch() -> None:
    watch = Watch(run=None, ledger=None, on_progress=None, actors=1, seconds=60)  # type: ignore[arg-type]
    with watch:
        raise ValueError("its own")


def test_a_report_that_the_store_refuses_is_written_a_minute_later(monkeypatch: pytest.MonkeyPatch) -> None:
    again = threading.Event()
    calls: list[Any] = []

    def refuse_first(run: Any) -> None:
        calls.append(run)
        if len(calls) == 1:
            raise OutputError("out: cannot be written: it is throttled")
        again.set()

    monkeypatch.setattr("pipelines.watch.REPORT_SECONDS", 0.0)
    watch = Watch(run=None, ledger=None, on_progress=None, actors=1, seconds=0.01, on_minute=refuse_first)  # type: ignore[arg-type]
    monkeypatch.setattr(watch, "_read", Progress)
    monkeypatch.setattr(watch, "_read_details", lambda: None)
    with watch:
        assert again.wait(60)


def test_an_actor_that_cannot_be_started_again_ends_the_run() -> None:
    watch = Watch(run=None, ledger=None, on_progress=None, actors=1, seconds=0.01)  # type: ignore[arg-type]
    watch.patience = 0.05
    watch._read = lambda: Progress(actors_ready=1, failure="OSError: no such weights")  # type: ignore[method-assign]
    with pytest.raises(DriverError, match="could not be started again: OSError: no such weights"), watch:
        for _ in range(3000):
            time.sleep(0.01)
