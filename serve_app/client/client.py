"""Client: a server's `POST /encode` for code that is not asynchronous, or whose own event loop is running."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Self, TypeVar, TypeVarTuple

import anyio
from anyio.from_thread import BlockingPortal
from torch import Tensor

from serve_app.client.answers import Answer
from serve_app.client.async_client import AsyncClient
from serve_app.client.options import ClientOptions
from t5enc.embeddings import Embeddings
from t5enc.errors import ConfigError, ServiceError
from t5enc.text.prompts import TokenIds

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


class Client:
    """AsyncClient for code that is not asynchronous; any thread may use it, also beside a running event loop."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        """Options are AsyncClient's."""
        self._client = AsyncClient(url, key, **options)
        self._pid = os.getpid()
        opened: Future[tuple[BlockingPortal, Callable[[], object]]] = Future()
        # start_blocking_portal waits for its thread wherever it is left, be it in a garbage collector, and for ever in
        # a forked process, which has no such thread.
        arguments = (serve_portal, opened, self._client.close)
        self._thread = threading.Thread(target=anyio.run, args=arguments, name="t5enc client", daemon=True)
        self._thread.start()
        self._portal, end = opened.result()
        self._end = weakref.finalize(self, _end_in, self._pid, end)

    @property
    def options(self) -> ClientOptions:
        """What the client was made with."""
        return self._client.options

    def encode(
        self,
        texts: Sequence[str],
        *,
        recipe: str | None = None,
        recipe_options: Mapping[str, Any] | None = None,
        truncate: bool = True,
    ) -> Embeddings:
        """As AsyncClient.encode."""
        return self.answer(texts, recipe=recipe, recipe_options=recipe_options, truncate=truncate).embeddings

    def answer(
        self,
        texts: Sequence[str],
        *,
        recipe: str | None = None,
        recipe_options: Mapping[str, Any] | None = None,
        truncate: bool = True,
    ) -> Answer:
        """As AsyncClient.answer."""
        asked = partial(self._client.answer, texts, recipe=recipe, recipe_options=recipe_options, truncate=truncate)
        return self._run(asked)

    def null(self, recipe: str | None = None, recipe_options: Mapping[str, Any] | None = None) -> Tensor | None:
        """As AsyncClient.null."""
        return self._run(self._client.null, recipe, recipe_options)

    def encode_tokens(self, ids: Sequence[Sequence[int] | TokenIds]) -> Embeddings:
        """As AsyncClient.encode_tokens."""
        return self._run(self._client.encode_tokens, ids)

    def info(self) -> dict[str, Any]:
        """As AsyncClient.info."""
        return self._run(self._client.info)

    def close(self) -> None:
        """Close the connections."""
        self._end()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: Callable[[*Arguments], Awaitable[R]], *arguments: *Arguments) -> R:
        """What the call returns; an interrupted caller cancels it.

        Raises ConfigError in a forked process and after `close`, ServiceError where `close` came before the end.
        """
        if os.getpid() != self._pid:
            raise ConfigError(f"a client made in process {self._pid} cannot be used in {os.getpid()}: make one there")
        if not self._end.alive:
            raise ConfigError("this client was closed: expected one that is open")
        future = self._portal.start_task_soon(call, *arguments)
        try:
            return future.result()
        except CancelledError as error:
            raise ServiceError("the client was closed before the answer was there") from error
        except BaseException:
            future.cancel()
            raise


async def serve_portal(
    opened: Future[tuple[BlockingPortal, Callable[[], object]]], last: Callable[[], Awaitable[None]]
) -> None:
    """Run what comes through a portal until it is ended, then `last`.

    `opened` gets the portal and what ends it, which any thread may call and which does not wait. Callers that are
    still waiting then are told of a cancelled call.
    """
    is_over = asyncio.Event()
    end = partial(asyncio.get_running_loop().call_soon_threadsafe, is_over.set)
    async with BlockingPortal() as portal:
        opened.set_result((portal, end))
        await is_over.wait()
        await portal.stop(cancel_remaining=True)
    await last()


def _end_in(pid: int, end: Callable[[], object]) -> None:
    """Only in the process that has the thread."""
    if os.getpid() == pid:
        end()
