"""AsyncClient: a server's `POST /encode` for code that is asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx2
import numpy as np
from torch import Tensor

from serve_app.client.answers import (
    MEDIA_TYPE,
    Answer,
    add_null,
    check_status,
    is_same,
    join_answers,
    read_answer,
    read_nothing,
)
from serve_app.client.chunks import cut_chunks, guess_tokens
from serve_app.client.options import ClientOptions
from serve_app.client.retries import PassingFailureError, Retries
from t5enc.embeddings import Embeddings
from t5enc.errors import InputError, PrecisionError, ServiceError
from t5enc.options import NO_RECIPE
from t5enc.text.prompts import TokenIds
from t5enc.text.tokenizer import check_texts

R = TypeVar("R")


class AsyncClient:
    """A server's encoder, for one event loop; `async with` closes its connections."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        """Options are the fields of ClientOptions.

        `timeout` bounds one attempt, `deadline` one chunk with all its attempts and the waits between them. A long list
        is cut into chunks of at most `max_texts` and about `max_tokens`. Of all calls together `parallel` attempts are
        under way at a time; to wait for one's turn costs nothing of timeout and deadline.
        """
        self.options = ClientOptions(url=url, key=key, **options)
        limits = httpx2.Limits(max_connections=self.options.parallel)
        self._null: Answer | None = None  # the last one that was asked for
        self._turns = asyncio.Semaphore(self.options.parallel)
        self._http = httpx2.AsyncClient(headers=self.options.headers, limits=limits, timeout=None)

    async def encode(
        self,
        texts: Sequence[str],
        *,
        recipe: str | None = None,
        recipe_options: Mapping[str, Any] | None = None,
        truncate: bool = True,
    ) -> Embeddings:
        """Embeddings of N texts in order, on the CPU, in the server's dtype.

        `recipe` is one that the server lists at `/recipes`, or none; without it the server's own holds, if any. Under
        a recipe `to_pipeline()` gives what its pipeline makes of all N texts together.

        Raises InputError for what the server refuses (a text too long, where `truncate` is False), OverloadedError
        and ServiceError for what was not answered by the deadline, ConfigError for a key that is not accepted,
        PrecisionError naming texts that the model cannot compute.
        """
        found = await self.answer(texts, recipe=recipe, recipe_options=recipe_options, truncate=truncate)
        return found.embeddings

    async def answer(
        self,
        texts: Sequence[str],
        *,
        recipe: str | None = None,
        recipe_options: Mapping[str, Any] | None = None,
        truncate: bool = True,
    ) -> Answer:
        """What `encode` returns, with the texts that were cut and what encoded them."""
        checked = check_texts(texts)
        asked = describe_recipe(recipe, recipe_options)
        if not checked and recipe not in (None, NO_RECIPE):
            return await self._fetch_null(asked)
        sizes = [guess_tokens(text) for text in checked]
        found = await self._encode(
            sizes, lambda part: {"texts": checked[part.start : part.stop], "truncate": truncate} | asked
        )
        conditioning = found.embeddings.conditioning
        if conditioning is None or conditioning.recipe.null != "text":
            return found
        if self._null is None or not is_same(found, self._null):
            self._null = await self._fetch_null(asked)
        return add_null(found, self._null, self._address("/encode"))

    async def null(self, recipe: str | None = None, recipe_options: Mapping[str, Any] | None = None) -> Tensor | None:
        """Rows (K, M) of a recipe's null prompt, on the CPU; None where its null is zeros, or there is none.

        Raises what `encode` raises.
        """
        conditioning = (await self._fetch_null(describe_recipe(recipe, recipe_options))).embeddings.conditioning
        return None if conditioning is None else conditioning.null

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

    async def _fetch_null(self, asked: dict[str, Any]) -> Answer:
        """No texts, and the null prompt of the recipe that is asked for."""
        return await self._send(range(0), asked | {"null": True})

    async def _encode_nothing(self) -> Answer:
        """No texts in the server's width and dtype."""
        return read_nothing(await self.info(), f"GET {self._address('/info')}")

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
        where = f"POST {request.url} ({describe_chunk(chunk)})"
        try:
            return await self._fetch(request, where, lambda answer: read_answer(answer, len(chunk), where))
        except PrecisionError as error:
            raise PrecisionError({chunk.start + place: reason for place, reason in error.failed.items()}) from None

    async def _fetch(self, request: httpx2.Request, where: str, read: Callable[[httpx2.Response], R]) -> R:
        """What `read` makes of the answer, however many attempts that takes until the deadline."""
        retries = Retries(where, self.options.deadline, self.options.timing)
        while True:
            try:
                answer = await self._take_turn(request, retries)
                check_status(answer, where)
                return read(answer)
            except PassingFailureError as failure:
                await retries.wait(failure)

    async def _take_turn(self, request: httpx2.Request, retries: Retries) -> httpx2.Response:
        """One attempt, when one of the connections is free for it."""
        asked = retries.now
        async with self._turns:
            retries.excuse(retries.now - asked)
            return await self._try_once(request, min(self.options.timeout, retries.seconds_left))

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


def describe_chunk(chunk: range) -> str:
    """What a request is about."""
    return f"texts {chunk.start} to {chunk.stop - 1}" if chunk else "null"


def describe_recipe(recipe: str | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a request that ask for a recipe."""
    asked = {"recipe": recipe, "recipe_options": dict(options or {})}
    return {name: value for name, value in asked.items() if value}


def _as_list(index: int, text: Sequence[int] | TokenIds) -> list[int]:
    ids = np.asarray(text)
    if ids.ndim != 1 or len(ids) < 1 or ids.dtype.kind not in "iu":
        raise InputError(f"ids[{index}]: expected a flat list of token ids, got shape {ids.shape} of {ids.dtype}")
    return [int(token) for token in ids]
