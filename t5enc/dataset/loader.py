"""Batches read ahead in threads, in order, with the state of what was given and not of what was read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Protocol, TypeAlias

from t5enc.dataset.draws import Draw
from t5enc.dataset.sampler import EmbeddingSampler
from t5enc.errors import ConfigError

State: TypeAlias = dict[str, Any]
Rows: TypeAlias = Sequence[int] | Sequence[Draw]


class Fetched(Protocol):
    """A data set that gives many rows at a time, from any thread."""

    def __getitems__(self, rows: Any) -> Any: ...


class EmbeddingLoader:
    """A sampler's batches of a data set, of which the next `prefetch` are read in threads while one is used.

    No process is started. What `data.__getitems__` gives, or `collate` makes of it, comes in the sampler's order; an
    exception comes where its batch would have. With `pin_memory` its method of this name is called, in the thread.

    `state_dict()` is where the world stands after the last batch that was given, however far it has read ahead; with
    0 as `prefetch` nothing is read ahead, and no thread is started.
    """

    def __init__(
        self,
        data: Fetched,
        sampler: EmbeddingSampler,
        *,
        prefetch: int = 2,
        collate: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
    ) -> None:
        if prefetch < 0:
            raise ConfigError(f"prefetch: expected a whole number of at least 0, got {prefetch}")
        self.data = data
        self.sampler = sampler
        self._prefetch = prefetch
        self._collate = collate
        self._pin_memory = pin_memory
        self._state, self._moves = sampler.state_dict(), sampler.moves
        self._run = object()
        # Whether somebody has said where the next iteration is to begin, which then may have nothing left.
        self._is_set = True

    @property
    def epoch(self) -> int:
        """The epoch that is being read, or that comes next."""
        return int(self._state["epoch"])

    def __len__(self) -> int:
        """This rank's steps in a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """Batches from where the epoch stands to its end; then the next epoch is begun.

        Iterations that were begun before, or before a state was loaded, end.
        """
        self._begin()
        run = self._run
        with closing(self._read_ahead() if self._prefetch else self._read()) as batches:
            for state, batch in batches:
                self._state = state
                yield batch
                if self._run is not run:
                    return
        self._state, self._is_set = self.sampler.state_dict(), True

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch; one that is being read goes on after the last batch that was given."""
        if epoch != self.epoch:
            self.sampler.set_epoch(epoch)
            self._goto(self.sampler.state_dict())
        self._is_set = True

    def state_dict(self) -> State:
        """The sampler's state after the last batch that was given: the same on all ranks."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch where another loader's or a sampler's state was taken, at any world size."""
        self._goto(state)
        self._is_set = True

    def _begin(self) -> None:
        """Go back to the last batch that was given, or on to the next epoch where that was the last of its own.

        Or to where somebody has sent the sampler itself meanwhile.
        """
        if self.sampler.moves != self._moves:
            self._state, self._is_set = self.sampler.state_dict(), True
        self._goto(self._state)
        if not self._is_set and self.sampler.is_over:
            self.sampler.set_epoch(self.epoch + 1)
            self._goto(self.sampler.state_dict())
        self._is_set = False

    def _goto(self, state: Mapping[str, Any]) -> None:
        self.sampler.load_state_dict(state)
        self._state, self._moves = self.sampler.state_dict(), self.sampler.moves
        self._run = object()

    def _read(self) -> Generator[tuple[State, Any], None, None]:
        for rows in self.sampler:
            yield self.sampler.state_dict(), self._fetch(rows)

    def _read_ahead(self) -> Generator[tuple[State, Any], None, None]:
        """Each batch with the state after it. All threads have ended when this has, however it does."""
        threads = ThreadPoolExecutor(self._prefetch, thread_name_prefix="t5enc-loader")
        waiting: deque[tuple[State, Future[Any]]] = deque()
        try:
            for rows in self._list_rows():
                waiting.append((self.sampler.state_dict(), threads.submit(self._fetch, rows)))
                if len(waiting) > self._prefetch:
                    yield _wait_for(waiting)
            while waiting:
                yield _wait_for(waiting)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _list_rows(self) -> Iterator[Rows | Exception]:
        """The sampler's batches; what it raises comes in the place of the batch, after those that are being read."""
        try:
            yield from self.sampler
        except Exception as error:
            yield error

    def _fetch(self, rows: Rows | Exception) -> Any:
        if isinstance(rows, Exception):
            raise rows
        batch = self.data.__getitems__(rows)
        if self._collate is not None:
            batch = self._collate(batch)
        return batch.pin_memory() if self._pin_memory else batch


def _wait_for(waiting: deque[tuple[State, Future[Any]]]) -> tuple[State, Any]:
    """The batch that comes next, or the exception that its reading ended with."""
    state, future = waiting.popleft()
    return state, future.result()
