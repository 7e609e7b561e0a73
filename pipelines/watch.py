"""Watches a run from a thread of the driver: reads the ledger, reports progress, ends a run that gets nowhere."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.leaving import find_leaving
from t5enc.errors import DriverError, OutputError

if TYPE_CHECKING:
    from pipelines.encode import Run
    from pipelines.ledger import Progress

READ_SECONDS = 1.0
# Actors that died while loading, with none ever ready, before the run is given up.
FAILED_STARTS = 4
REPORT_SECONDS = 60.0
# What Ray has to tell of an actor's failed start itself, as it does of the first ones.
FAILURE_SECONDS = 15.0


class GivenUp(BaseException):
    """Raised in the thread that runs a job, by its watch."""


class Watch:
    """Context of a run; leaving it raises what made the watcher end the run.

    The end reaches the run as an exception in its own thread, not as a signal: that works in any thread, and where
    SIGINT is ignored, as in jobs that a script starts in the background.
    """

    def __init__(
        self,
        run: Run,
        ledger: Any,
        on_progress: Callable[[Progress, Run], None] | None,
        *,
        actors: int,
        seconds: float = READ_SECONDS,
        on_minute: Callable[[Run], None] | None = None,
    ) -> None:
        """`actors` is the most that load at once: only starts beyond that tell of deaths.

        `on_minute` is called once a minute, with the run's details brought up to date.
        """
        self.run = run
        self.actors = actors
        self.ledger = ledger
        self.on_progress = on_progress
        self.seconds = seconds
        self.on_minute = on_minute
        self.noted = time.monotonic()
        self.leaving: set[str] = set()
        self.failed = 0.0
        self.patience = FAILURE_SECONDS
        self.reason: str | None = None
        self._is_over = threading.Event()
        self._runner = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        try:
            self._thread.join()
            if self.reason is not None:
                _raise_in(self._runner, None)  # it may not have come yet
        except GivenUp:
            kind = GivenUp
        if self.reason is not None and kind in (None, GivenUp):
            raise DriverError(self.reason)
        if kind is None:
            self._read()
            self._read_details()

    def _watch(self) -> None:
        while not self._is_over.wait(self.seconds):
            progress = self._read()
            self.reason = self._find_dead_end(progress)
            if self.reason is not None:
                _raise_in(self._runner, GivenUp)
                return
            self._report()

    def _find_dead_end(self, progress: Progress) -> str | None:
        """Why a run cannot go on, if so."""
        deaths = progress.actors_started - self.actors
        if deaths >= FAILED_STARTS and not progress.actors_ready:
            return (
                f"{deaths} encoder processes died while loading the model and none was ever ready: "
                f"too little memory for it, or a broken installation; see Ray's worker logs"
            )
        if progress.failure:
            self.failed = self.failed or time.monotonic()
            if time.monotonic() - self.failed > self.patience:
                return f"an actor that was lost could not be started again: {progress.failure}"
        return None

    def _tell_leaving(self) -> None:
        if leaving := find_leaving() - self.leaving:
            self.leaving |= leaving
            self.ledger.leave.remote(leaving)

    def _report(self) -> None:
        """Once a minute; what a store does not take now it gets a minute later, or at the end, where that counts."""
        if self.on_minute is None or time.monotonic() - self.noted < REPORT_SECONDS:
            return
        self.noted = time.monotonic()
        self._read_details()
        with contextlib.suppress(OutputError):
            self.on_minute(self.run)

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
