"""`POST /encode`: the embedding of every token, in the format that the client accepts."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve_app.accept import pick_media_type
from serve_app.encoding import Encoded, encode_batch
from serve_app.models import Models
from serve_app.routing import add_route
from serve_app.schema import EncodeBody, TeiError
from serve_app.service import ModelService
from serve_app.wire import WRITERS, TokenEmbeddings, choose_dtype, join_texts


def make_router(models: Models) -> APIRouter:
    """The route, for these models."""
    router = APIRouter(tags=["t5enc"])
    add_route(router, "POST", "/encode", encode, models, error=TeiError, media_types=tuple(WRITERS))
    return router


async def encode(models: Models, body: EncodeBody, request: Request) -> Response:
    """Token embeddings of texts or token ids: tensors values (T, M), offsets (N + 1,), lengths and truncated (N,).

    The Accept header picks the format: safetensors (default), an Arrow stream with one row a text, npz, npy (of one
    text), or JSON.
    """
    service = models.find(body.model)
    media_type = pick_media_type(request.headers.getlist("accept"), WRITERS)
    dtype = choose_dtype(body.dtype, str(service.options.dtype), media_type)
    encoded = await encode_batch(service, body.batch, truncate=body.truncate, field=body.field)
    # Megabytes: written beside the event loop.
    content = await asyncio.to_thread(_write, service, encoded, dtype, media_type)
    return Response(content, media_type=media_type, headers=encoded.headers)


def _write(service: ModelService, encoded: Encoded, dtype: str, media_type: str) -> bytes:
    embeddings = join_texts(encoded.hidden, dtype)
    return WRITERS[media_type](TokenEmbeddings(embeddings, encoded.truncated, service.name, service.fingerprint))
