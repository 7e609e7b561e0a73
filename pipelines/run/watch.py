"""Watches a run from a thread of the driver: reads the ledger, reports progress, ends a run that gets nowhere."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.nodes.leaving import find_leaving
from t5enc.errors import DriverError

if TYPE_CHECKING:
    from pipelines.progress.ledger import Progress
    from pipelines.run.state import OnProgress, RunState

logger = logging.getLogger(__name__)

READ_SECONDS = 1.0
# Deaths of one actor in a row while it loads, with nothing committed meanwhile, before the run is given up.
FAILED_STARTS = 4
REPORT_SECONDS = 60.0
# What Ray has to start another in the place of an actor that failed, or to tell of the failure itself.
FAILURE_SECONDS = 30.0
# What other actors have to begin or commit something, or become ready, after one could not be started again.
OTHERS_SECONDS = 600.0


class GivenUp(BaseException):
    """Raised in the thread that runs a job, by its watch."""


class Watch:
    """Context of a run; leaving it raises what made the watcher end the run.

    The end reaches the run as an exception in its own thread, not as a signal: that works in any thread, and where
    SIGINT is ignored, as in jobs that a script starts in the background.
    """

    def __init__(
        self,
        run: RunState,
        ledger: Any,
        on_progress: OnProgress | None,
        *,
        seconds: float = READ_SECONDS,
        on_minute: Callable[[RunState], None] | None = None,
    ) -> None:
        """`on_minute` is called once a minute, with the run's details brought up to date."""
        self.run = run
        self.ledger = ledger
        self.on_progress = on_progress
        self.seconds = seconds
        self.on_minute = on_minute
        self.noted = time.monotonic()
        self.leaving: set[str] = set()
        self.signs = 0
        self.seen = time.monotonic()
        self.patience = (FAILURE_SECONDS, OTHERS_SECONDS)
        self.reason: str | None = None
        self.error: Exception | None = None
        self._is_over = threading.Event()
        self._runner = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._reporting: threading.Thread | None = None

    def __enter__(self) -> Watch:
        try:
            self._thread.start()
        except GivenUp as error:  # on a busy machine the watch may look before this thread knows that it began
            raise self._explain() from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        try:
            self._thread.join()
            if self.reason is not None or self.error is not None:
                _raise_in(self._runner, None)  # it may not have come yet
        except GivenUp:
            kind = GivenUp
        if kind in (None, GivenUp) and (self.reason is not None or self.error is not None):
            raise self._explain()
        if kind is None:
            self._conclude()

    def _explain(self) -> Exception:
        """Why the watch ended the run."""
        return self.error or DriverError(self.reason or "")

    def _conclude(self) -> None:
        """Bring the run up to date at a good end. A report still being written must not come after the last one."""
        if self._reporting is not None:
            self._reporting.join()
        self._settle()
        self._read()
        self._read_details()

    def _watch(self) -> None:
        """Watch to the end; what goes wrong here goes wrong in the run."""
        try:
            self._look_again_and_again()
        except Exception as error:
            self.error = error
            _raise_in(self._runner, GivenUp)

    def _look_again_and_again(self) -> None:
        while not self._is_over.wait(self.seconds):
            self.reason = self._find_dead_end(self._read())
            if self.reason is not None:
                _raise_in(self._runner, GivenUp)
                return
            self._report()

    def _find_dead_end(self, progress: Progress) -> str | None:
        """Why a run cannot go on, if so."""
        if progress.failed_starts >= FAILED_STARTS:
            loaded = {"encoder": "the model", "tokenizer": "the tokenizer"}[progress.failing]
            return (
                f"{progress.failed_starts} {progress.failing} processes in a row died while loading {loaded}: "
                f"too little memory for it, or a broken installation; see Ray's worker logs"
            )
        if progress.signs != self.signs or not progress.failure:
            self.signs, self.seen = progress.signs, time.monotonic()
        if time.monotonic() - self.seen > self.patience[progress.actors_left > 0]:
            return f"an actor that was lost could not be started again: {progress.failure}"
        return None

    def _tell_leaving(self) -> None:
        if leaving := find_leaving() - self.leaving:
            self.leaving |= leaving
            self.ledger.leave.remote(leaving)

    def _report(self) -> None:
        """Once a minute, in a thread of its own: a store may take minutes, and no report waits for another."""
        is_writing = self._reporting is not None and self._reporting.is_alive()
        if self.on_minute is None or is_writing or time.monotonic() - self.noted < REPORT_SECONDS:
            return
        self.noted = time.monotonic()
        self._reporting = threading.Thread(target=self._write, args=(self.on_minute,), name="report", daemon=True)
        self._reporting.start()

    def _write(self, on_minute: Callable[[RunState], None]) -> None:
        """What a store does not take now it gets a minute later, or at the end, where that counts."""
        try:
            self._read_details()
            on_minute(self.run)
        except Exception as error:
            logger.warning("the report of this minute is not written: %s", error)

    def _settle(self) -> None:
        """The rows that are left: what another run has committed, the ledger was not told of."""
        import ray

        ray.get(self.ledger.settle.remote(self.run.rows_left))

    def _read_details(self) -> None:
        import ray

        self.run.details = ray.get(self.ledger.read_details.remote())

    def _read(self) -> Progress:
        import ray

        self._tell_leaving()
        progress: Progress = ray.get(self.ledger.read.remote())
        self.run.progress = progress
        if self.run.ready is None and progress.actors_ready:
            self.run.ready = time.perf_counter()
        if self.on_progress is not None:
            self.on_progress(progress, self.run)
        return progress


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """Have a thread raise an exception at its next instruction; None takes back what has not been raised."""
    raised = None if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
