"""The watch ends a run that gets nowhere, in whatever thread that runs, signals or not."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipelines.progress.ledger import Progress
from pipelines.run.watch import FAILED_STARTS, FAILURE_SECONDS, OTHERS_SECONDS, Watch
from t5enc.errors import DriverError, OutputError

TOO_MANY = Progress(actors_ready=1, failed_starts=FAILED_STARTS)


@pytest.fixture
def ignored_interrupts() -> Iterator[None]:
    """As a script's background jobs have it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def run_for_ever(progress: Progress) -> None:
    """A run that waits for work that never comes, under a watch that reads this progress."""
    watch = Watch(run=None, ledger=None, on_progress=None, seconds=0.01)  # type: ignore[arg-type]
    watch._read = lambda: progress  # type: ignore[method-assign]
    with watch:
        for _ in range(3000):
            time.sleep(0.01)


@pytest.mark.usefixtures("ignored_interrupts")
def test_a_run_whose_processes_all_die_is_ended_where_interrupts_are_ignored() -> None:
    with pytest.raises(DriverError, match="4 encoder processes in a row died while loading the model"):
        run_for_ever(TOO_MANY)


def test_a_run_whose_tokenizers_all_die_is_ended_though_encoders_are_ready() -> None:
    with pytest.raises(DriverError, match="4 tokenizer processes in a row died while loading the tokenizer"):
        run_for_ever(Progress(actors_ready=1, failed_starts=FAILED_STARTS, failing="tokenizer"))


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


def test_a_watch_that_looks_before_its_start_is_over_ends_the_run_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def start_slowly(self: threading.Thread) -> None:
        start(self)
        for _ in range(300):
            time.sleep(0.01)

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    with pytest.raises(DriverError, match="4 encoder processes in a row died"):
        run_for_ever(TOO_MANY)


def test_an_error_of_the_run_itself_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="its own"):
        fail_under_watch()


def fail_under_watch() -> None:
    watch = Watch(run=None, ledger=None, on_progress=None, seconds=60)  # type: ignore[arg-type]
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

    monkeypatch.setattr("pipelines.run.watch.REPORT_SECONDS", 0.0)
    watch = Watch(run=None, ledger=None, on_progress=None, seconds=0.01, on_minute=refuse_first)  # type: ignore[arg-type]
    monkeypatch.setattr(watch, "_read", Progress)
    monkeypatch.setattr(watch, "_read_details", lambda: None)
    monkeypatch.setattr(watch, "_settle", lambda: None)
    with watch:
        assert again.wait(60)


def test_an_actor_that_cannot_be_started_again_ends_the_run() -> None:
    watch = Watch(run=None, ledger=None, on_progress=None, seconds=0.01)  # type: ignore[arg-type]
    watch.patience = (0.05, 60.0)
    watch._read = lambda: Progress(actors_ready=1, failure="OSError: no such weights")  # type: ignore[method-assign]
    with pytest.raises(DriverError, match="could not be started again: OSError: no such weights"):
        wait_under(watch)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Looks often, and asks no ledger."""
    watch = Watch(run=None, ledger=None, on_progress=None, seconds=0.01)  # type: ignore[arg-type]
    for name in ("_read_details", "_settle"):
        monkeypatch.setattr(watch, name, lambda: None)
    monkeypatch.setattr(watch, "_read", Progress)
    return watch


def test_a_store_that_takes_its_time_keeps_nobody_from_watching(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor from ending a run by Ctrl-C; and no second report begins beside the first."""
    monkeypatch.setattr("pipelines.run.watch.REPORT_SECONDS", 0.0)
    writing, looked_on, may_end = threading.Event(), threading.Semaphore(0), threading.Event()
    calls: list[Any] = []

    def write(run: Any) -> None:
        calls.append(run)
        writing.set()
        assert may_end.wait(60)

    def read() -> Progress:
        if writing.is_set():
            looked_on.release()
        return Progress()

    watch.on_minute = write
    monkeypatch.setattr(watch, "_read", read)
    with pytest.raises(KeyboardInterrupt):
        interrupt_when(watch, lambda: all(looked_on.acquire(timeout=60) for _ in range(3)))
    assert watch._reporting is not None
    assert watch._reporting.is_alive()
    may_end.set()
    watch._reporting.join()
    assert len(calls) == 1


def interrupt_when(watch: Watch, is_time: Callable[[], bool]) -> None:
    with watch:
        assert is_time()
        raise KeyboardInterrupt


def test_the_report_of_a_minute_does_not_come_after_the_last_one(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.run.watch.REPORT_SECONDS", 0.0)
    writing, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def write(_: Any) -> None:
        writing.set()
        assert may_end.wait(60)
        order.append("minute")

    watch.on_minute = write
    monkeypatch.setattr(watch, "_settle", lambda: order.append("end"))
    with watch:
        assert writing.wait(60)
        watch.on_minute = None
        threading.Timer(0.05, may_end.set).start()
    assert order == ["minute", "end"]


def test_an_error_of_the_watch_reaches_the_run(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Progress:
        raise ConnectionError("the ledger is gone")

    monkeypatch.setattr(watch, "_read", fail)
    with pytest.raises(ConnectionError, match="the ledger is gone"):
        wait_under(watch)


def wait_under(watch: Watch) -> None:
    with watch:
        for _ in range(3000):
            time.sleep(0.01)


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_failed_actor_ends_no_run_on_which_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("pipelines.run.watch.time", clock)
    watch = Watch(run=None, ledger=None, on_progress=None)  # type: ignore[arg-type]
    for signs in range(9):
        assert watch._find_dead_end(Progress(failure="OSError: gone", actors_left=1, signs=signs)) is None
        clock.now += OTHERS_SECONDS - 1
    clock.now += 2
    assert "OSError: gone" in str(watch._find_dead_end(Progress(failure="OSError: gone", actors_left=1, signs=8)))


def test_a_failed_actor_with_none_beside_it_ends_the_run_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("pipelines.run.watch.time", clock)
    watch = Watch(run=None, ledger=None, on_progress=None)  # type: ignore[arg-type]
    clock.now += 1000
    assert watch._find_dead_end(Progress()) is None
    assert watch._find_dead_end(Progress(failure="OSError: gone")) is None
    clock.now += FAILURE_SECONDS + 1
    assert watch._find_dead_end(Progress(failure="OSError: gone")) is not None
