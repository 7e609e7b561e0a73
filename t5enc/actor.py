"""EncoderActor: one model on one device, hosted by whatever framework runs it. Plain Python, no ray import.

Ray Data maps with this class; a server deploys it. All model work runs on one thread of its own: PyTorch's thread
count holds for the thread that sets it, and whatever calls an actor's methods calls from threads of its choosing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import pyarrow as pa

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.options import EncoderOptions
from t5enc.text_encoder import TextEncoder

P = ParamSpec("P")
R = TypeVar("R")


class Work(Protocol):
    """What an actor does with each batch it is called with."""

    def starting(self) -> None:
        """Called before the model is loaded."""

    def started(self, actor: EncoderActor) -> None:
        """Called when the model is ready."""

    def failed(self, error: Exception) -> None:
        """Called when the model could not be made ready, before that error is raised."""

    def __call__(self, actor: EncoderActor, batch: pa.Table) -> pa.Table: ...


class EncoderActor:
    """A loaded TextEncoder and the thread that owns it."""

    def __init__(self, options: EncoderOptions, work: Work, checkpoint: Checkpoint | None = None) -> None:
        """Loads the model, from the checkpoint where it was opened already; `work` decides what a call means."""
        self._work = work
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.busy_seconds = 0.0
        self.busy_cpu_seconds = 0.0
        try:
            work.starting()
            self._encoder: TextEncoder = self._thread.submit(TextEncoder.load, options, checkpoint).result()
            self._thread.submit(self._encoder.warm_up).result()
            work.started(self)
        except Exception as error:
            work.failed(error)
            raise

    @property
    def encoder(self) -> TextEncoder:
        """For reading its options and counters; to compute with it, `submit`."""
        return self._encoder

    def submit(
        self, function: Callable[Concatenate[TextEncoder, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Run `function(encoder, ...)` on the model's thread, in the order of submission."""
        return self._thread.submit(self._timed, partial(function, self._encoder, *args, **kwargs))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One batch of work, as Ray Data's map_batches calls it."""
        return self._work(self, batch)

    def _timed(self, function: Callable[[], R]) -> R:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return function()
        finally:
            self.busy_seconds += time.perf_counter() - wall
            self.busy_cpu_seconds += time.process_time() - cpu
