"""The HTTP application of a real tiny model, called in this process: no network, no Ray."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import httpx2
from fastapi import FastAPI

from serve_app.api.application import make_http
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.options import EncoderOptions

NAME = "tiny"
LIMITS = ServiceLimits(max_texts=8, max_length=64, queue_tokens=256, queue_texts=8)
LONG = "a red bird " * 100


@cache
def load_service() -> ModelService:
    """One builtin:tiny for all tests."""
    return ModelService(NAME, EncoderOptions(model="builtin:tiny", max_length=64, token_budget=128), LIMITS)


@cache
def load_app() -> FastAPI:
    """The application that serves it."""
    return make_http(Models([load_service()]))


def ask(method: str, path: str, *, app: FastAPI | None = None, raises: bool = True, **request: Any) -> httpx2.Response:
    """The application's answer; what no route handles is raised here, unless the answer to it is wanted."""

    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(app or load_app(), raise_app_exceptions=raises)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(send())


def post(path: str, body: object, *, accept: str | None = None, **options: Any) -> httpx2.Response:
    """The answer to a JSON body; options are those of `ask`."""
    return ask("POST", path, json=body, headers={"Accept": accept} if accept else {}, **options)


def list_ids(texts: list[str]) -> list[list[int]]:
    """The ids of texts, as the application's own `/tokenize` gives them."""
    return [[token["id"] for token in text] for text in post("/tokenize", {"inputs": texts}).json()]


def encode_alone(texts: list[str], **options: Any) -> list[list[list[float]]]:
    """What the bare encoder makes of texts, one by one."""
    from t5enc.text_encoder import TextEncoder

    encoder = TextEncoder.from_pretrained("builtin:tiny", max_length=64, token_budget=128, **options)
    return [encoder.encode([text])[0].tolist() for text in texts]
