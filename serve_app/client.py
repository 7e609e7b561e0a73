"""Clients of `POST /encode`, for code that is asynchronous and code that is not.

Encoding has no side effects, so whatever failed in passing is tried again until the deadline: an overloaded server, a
replica that died, a connection that broke, a body cut short.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import httpx2
import numpy as np
import torch

from serve_app.answers import MEDIA_TYPE, Answer, check_status, join_answers, read_answer
from serve_app.chunks import cut_chunks, guess_tokens
from serve_app.event_loop import LoopThread
from serve_app.retries import PassingFailureError, Retries, Timing
from t5enc.embeddings import Embeddings
from t5enc.errors import ConfigError, InputError, PrecisionError, ServiceError
from t5enc.text_encoder import TokenIds
from t5enc.tokenizer import check_texts

R = TypeVar("R")
# What may stand in a header: a key read from a file often ends in a line end.
KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Which server, and how patiently it is asked. Times are in seconds."""

    url: str
    key: str | None = field(default=None, repr=False)
    model: str | None = None
    timeout: float = 60.0
    deadline: float = 300.0
    max_texts: int = 32
    max_tokens: int = 4096
    parallel: int = 4
    timing: Timing = field(default_factory=Timing, repr=False)

    def __post_init__(self) -> None:
        for name in ("timeout", "deadline", "max_texts", "max_tokens", "parallel"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise ConfigError(f"url: expected http://HOST[:PORT][/PATH], got {self.url!r} ({error})") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"url: expected http://HOST[:PORT][/PATH], got {self.url!r}")
        if self.key and not KEY.fullmatch(self.key):
            raise ConfigError(
                f"key: expected ASCII without spaces or line ends, got other among {len(self.key)} characters"
            )

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


class AsyncClient:
    """A server's encoder, for one event loop; `async with` closes its connections."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        """Options are the fields of ClientOptions.

        `timeout` bounds one attempt, `deadline` one chunk with all its attempts and waits. A long list is cut into
        chunks of at most `max_texts` and about `max_tokens`, `parallel` of which are under way at a time.
        """
        self.options = ClientOptions(url=url, key=key, **options)
        limits = httpx2.Limits(max_connections=self.options.parallel)
        self._http = httpx2.AsyncClient(headers=self.options.headers, limits=limits, timeout=None)

    async def encode(self, texts: Sequence[str], *, truncate: bool = True) -> Embeddings:
        """Embeddings of N texts in order, on the CPU, in the server's dtype.

        Raises InputError for what the server refuses (a text too long, where `truncate` is False), OverloadedError
        and ServiceError for what was not answered by the deadline, ConfigError for a key that is not accepted,
        PrecisionError naming texts that the model cannot compute.
        """
        return (await self.answer(texts, truncate=truncate)).embeddings

    async def answer(self, texts: Sequence[str], *, truncate: bool = True) -> Answer:
        """What `encode` returns, with the texts that were cut and what encoded them."""
        checked = check_texts(texts)
        sizes = [guess_tokens(text) for text in checked]
        return await self._encode(sizes, lambda part: {"texts": checked[part.start : part.stop], "truncate": truncate})

    async def encode_tokens(self, ids: Sequence[Sequence[int] | TokenIds]) -> Embeddings:
        """Embeddings of N token lists, exactly as given: no end token is added."""
        lists = [_as_list(index, text) for index, text in enumerate(ids)]
        sizes = [len(text) for text in lists]
        return (await self._encode(sizes, lambda part: {"ids": lists[part.start : part.stop]})).embeddings

    async def info(self) -> dict[str, Any]:
        """What the server says of its model: TEI's `/info`, with `model_dim` and `fingerprint`."""

        def read(answer: httpx2.Response) -> dict[str, Any]:
            content = answer.json() if "json" in answer.headers.get("Content-Type", "") else None
            if not isinstance(content, dict):
                raise ServiceError(f"{where}: expected a JSON object, got {answer.text[:100]!r}")
            return content

        params = {} if self.options.model is None else {"model": self.options.model}
        request = self._http.build_request("GET", self._address("/info"), params=params)
        where = f"GET {request.url}"
        return await self._fetch(request, where, read)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _encode(self, sizes: Sequence[int], describe: Callable[[range], dict[str, Any]]) -> Answer:
        chunks = cut_chunks(sizes, max_texts=self.options.max_texts, max_tokens=self.options.max_tokens)
        if not chunks:
            return await self._encode_nothing()
        answers: dict[int, Answer] = {}
        waiting = iter(enumerate(chunks))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.options.parallel, len(chunks))):
                    group.create_task(self._work(waiting, describe, answers))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return join_answers([answers[place] for place in range(len(chunks))], self._address("/encode"))

    async def _encode_nothing(self) -> Answer:
        """No texts in the server's width and dtype."""
        info = await self.info()
        values = torch.empty(0, int(info["model_dim"]), dtype=getattr(torch, info["model_dtype"]))
        nothing = Embeddings(values, torch.zeros(1, dtype=torch.int64))
        return Answer(nothing, torch.empty(0, dtype=torch.bool), info["served_model_name"], info["fingerprint"])

    async def _work(
        self,
        waiting: Iterator[tuple[int, range]],
        describe: Callable[[range], dict[str, Any]],
        answers: dict[int, Answer],
    ) -> None:
        """Send one chunk after the other until none is waiting."""
        for place, chunk in waiting:
            answers[place] = await self._send(chunk, describe(chunk))

    async def _send(self, chunk: range, content: dict[str, Any]) -> Answer:
        if self.options.model is not None:
            content["model"] = self.options.model
        request = self._http.build_request(
            "POST", self._address("/encode"), json=content, headers={"Accept": MEDIA_TYPE}
        )
        where = f"POST {request.url} (texts {chunk.start} to {chunk.stop - 1})"
        try:
            return await self._fetch(request, where, lambda answer: read_answer(answer, len(chunk), where))
        except PrecisionError as error:
            raise PrecisionError({chunk.start + place: reason for place, reason in error.failed.items()}) from None

    async def _fetch(self, request: httpx2.Request, where: str, read: Callable[[httpx2.Response], R]) -> R:
        """What `read` makes of the answer, however many attempts that takes until the deadline."""
        retries = Retries(where, self.options.deadline, self.options.timing)
        while True:
            try:
                answer = await self._try_once(request, min(self.options.timeout, retries.seconds_left))
                check_status(answer, where)
                return read(answer)
            except PassingFailureError as failure:
                await retries.wait(failure)

    async def _try_once(self, request: httpx2.Request, seconds: float) -> httpx2.Response:
        try:
            async with asyncio.timeout(seconds):
                return await self._http.send(request)
        except TimeoutError as error:
            raise PassingFailureError(f"no whole answer within {seconds:g} s") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise PassingFailureError(f"{type(error).__name__}: {error}") from error

    def _address(self, path: str) -> str:
        return self.options.url.rstrip("/") + path


class Client:
    """AsyncClient for code that is not asynchronous; any thread may use it, also beside a running event loop."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        """Options are AsyncClient's."""
        self._client = AsyncClient(url, key, **options)
        self._loop = LoopThread("t5enc client")
        self._stop = weakref.finalize(self, self._loop.stop, self._client.close)

    @property
    def options(self) -> ClientOptions:
        """What the client was made with."""
        return self._client.options

    def encode(self, texts: Sequence[str], *, truncate: bool = True) -> Embeddings:
        """As AsyncClient.encode."""
        return self._loop.run(self._client.encode(texts, truncate=truncate))

    def answer(self, texts: Sequence[str], *, truncate: bool = True) -> Answer:
        """As AsyncClient.answer."""
        return self._loop.run(self._client.answer(texts, truncate=truncate))

    def encode_tokens(self, ids: Sequence[Sequence[int] | TokenIds]) -> Embeddings:
        """As AsyncClient.encode_tokens."""
        return self._loop.run(self._client.encode_tokens(ids))

    def info(self) -> dict[str, Any]:
        """As AsyncClient.info."""
        return self._loop.run(self._client.info())

    def close(self) -> None:
        """Close the connections."""
        self._stop()
        self._loop.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_list(index: int, text: Sequence[int] | TokenIds) -> list[int]:
    ids = np.asarray(text)
    if ids.ndim != 1 or len(ids) < 1 or ids.dtype.kind not in "iu":
        raise InputError(f"ids[{index}]: expected a flat list of token ids, got shape {ids.shape} of {ids.dtype}")
    return [int(token) for token in ids]
