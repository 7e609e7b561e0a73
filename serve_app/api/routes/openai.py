"""OpenAI's embeddings, and vLLM's binary form of them.

An embedding is the mean of a text's tokens, of unit length, as Sentence-T5 has it. For the embedding of every token
there is `/encode`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response
from torch import Tensor

from serve_app.api.answer_size import POOLED
from serve_app.api.bodies import make_route_class
from serve_app.api.encoding import Encoded, check_pooling, encode_batch, pool_texts
from serve_app.api.routing import add_route, answer_json
from serve_app.api.schema import EmbeddingsBody, OpenAIError
from serve_app.api.wire import to_raw
from serve_app.served.models import Models
from serve_app.served.refusals import refuse_value
from serve_app.served.service import ModelService

# Proxies drop answers with larger headers.
LARGEST_HEADER = 7168


def make_router(models: Models) -> APIRouter:
    """OpenAI's routes, for these models."""
    router = APIRouter(tags=["OpenAI"], route_class=make_route_class(models))
    started = int(time.time())
    answers = ("application/json", "application/octet-stream")
    for path in ("/v1/embeddings", "/embeddings"):  # the latter is TEI's
        add_route(router, "POST", path, embed, models, error=OpenAIError, media_types=answers)
    add_route(router, "GET", "/v1/models", list_models, models, started, error=OpenAIError)
    add_route(router, "GET", "/v1/models/{name:path}", describe_model, models, started, error=OpenAIError)
    return router


async def embed(models: Models, body: EmbeddingsBody) -> Response:
    """One vector a text: the mean of its tokens' embeddings, of unit length. A text over the limit is refused."""
    service = models.find(body.model)
    check_pooling(body.dimensions, service)
    encoded = await encode_batch(service, body.input, truncate=False, field="input", size=POOLED)
    return await asyncio.to_thread(_answer, service, encoded, body)


async def list_models(models: Models, started: int) -> Response:
    """The models that are served here."""
    listed = [_describe(service, started) for service in models.values()]
    return answer_json({"object": "list", "data": listed})


async def describe_model(models: Models, started: int, name: str) -> Response:
    """One of the models that are served here."""
    return answer_json(_describe(models.find(name), started))


def _describe(service: ModelService, started: int) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": started, "owned_by": "t5enc"}


def _answer(service: ModelService, encoded: Encoded, body: EmbeddingsBody) -> Response:
    vectors = pool_texts(service.pooler, encoded)
    if body.form[0] in ("bytes", "bytes_only"):
        return _answer_bytes(service, encoded, vectors, body)
    data = [
        {"object": "embedding", "index": index, "embedding": _write_vector(vector, body)}
        for index, vector in enumerate(vectors)
    ]
    content = {"object": "list", "data": data, "model": service.name, "usage": _count_usage(encoded)}
    return answer_json(content, encoded.headers)


def _write_vector(vector: Tensor, body: EmbeddingsBody) -> list[float] | str:
    encoding, dtype, endianness = body.form
    if encoding == "float":
        return vector.tolist()
    # OpenAI's base64 is little-endian float32; vLLM's other dtypes and orders only where they are asked for.
    return base64.b64encode(to_raw(vector, dtype, "little" if endianness == "native" else endianness)).decode()


def _answer_bytes(service: ModelService, encoded: Encoded, vectors: Tensor, body: EmbeddingsBody) -> Response:
    """All vectors end to end; for `bytes`, the header `metadata` says where each lies."""
    encoding, dtype, endianness = body.form
    content = to_raw(vectors, dtype, endianness)
    headers = encoded.headers
    if encoding == "bytes":
        headers["metadata"] = _describe_bytes(service, encoded, len(content), body)
    return Response(content, media_type="application/octet-stream", headers=headers)


def _describe_bytes(service: ModelService, encoded: Encoded, total: int, body: EmbeddingsBody) -> str:
    size = total // len(encoded.hidden)
    _, dtype, endianness = body.form
    shared = {"embed_dtype": dtype, "endianness": endianness, "shape": [service.pooled_dim]}
    places = [
        {"index": index, "start": index * size, "end": (index + 1) * size} | shared
        for index in range(len(encoded.hidden))
    ]
    facts = {"id": f"embd-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    header = json.dumps(facts | {"data": places, "usage": _count_usage(encoded)})
    if len(header) > LARGEST_HEADER:
        expected = f"expected fewer texts, whose metadata fit in a header of {LARGEST_HEADER} bytes, or bytes_only"
        raise refuse_value("encoding_format", f"{expected}; got bytes of {len(places)} texts, {len(header)} bytes")
    return header


def _count_usage(encoded: Encoded) -> dict[str, int]:
    return {"prompt_tokens": encoded.tokens, "total_tokens": encoded.tokens}
