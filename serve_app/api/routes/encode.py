"""`POST /encode`: the embedding of every token, in the format that the client accepts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import torch
from fastapi import APIRouter, Request
from starlette.responses import Response
from torch import Tensor

from serve_app.api.answer_size import JSON_NUMBER_BYTES, AnswerSize, measure_number
from serve_app.api.bodies import make_route_class
from serve_app.api.encoding import Encoded, encode_batch, encode_captions
from serve_app.api.media_types import pick_media_type
from serve_app.api.routing import add_route
from serve_app.api.schema import EncodeBody, TeiError
from serve_app.api.wire import (
    JSON,
    NPY,
    NPZ,
    SAFETENSORS,
    WRITERS,
    TokenEmbeddings,
    check_single,
    choose_dtype,
    join_texts,
)
from serve_app.served.models import Models
from serve_app.served.refusals import RefusedError, refuse_empty, refuse_value
from serve_app.served.service import ModelService
from t5enc.options import NO_RECIPE
from t5enc.recipes.conditioning import Conditioning


def make_router(models: Models) -> APIRouter:
    """The route, for these models."""
    router = APIRouter(tags=["t5enc"], route_class=make_route_class(models))
    add_route(router, "POST", "/encode", encode, models, error=TeiError, media_types=tuple(WRITERS))
    return router


async def encode(models: Models, body: EncodeBody, request: Request) -> Response:
    """Token embeddings of texts or token ids: tensors values (T, M), offsets (N + 1,), lengths and truncated (N,).

    Under a recipe (the service's own, or the one that is named; `none` for none) texts are prepared as its pipeline
    does, and the rows that it keeps are answered; token ids are taken as they are. `null` adds the rows (K, M) of the
    recipe's null prompt, or asks for them alone; there are none where the null is zeros or nothing. `pipeline` gives
    the tensors that the pipeline hands to its transformer (`prompt_embeds`, `prompt_mask`, `null_embeds`,
    `null_mask`) in the place of values and offsets. The metadata name the recipe, its version and fields.

    The Accept header picks the format: safetensors (default), an Arrow stream with one row a text, npz, npy (of one
    text), or JSON.
    """
    service = models.find(body.model)
    media_type = pick_media_type(request.headers.getlist("accept"), WRITERS)
    dtype = choose_dtype(body.dtype, str(service.options.dtype), media_type)
    if body.pipeline and media_type not in (SAFETENSORS, NPZ):
        raise refuse_value("pipeline", f"expected {SAFETENSORS} or {NPZ} for its tensors, got {media_type}")
    if media_type == NPY and (body.texts or body.ids or body.null):
        check_single(len(body.texts or body.ids or ()), body.null)
    encoded = await _encode(service, body, _find_size(body, dtype, media_type))
    # Megabytes: written beside the event loop.
    content = await asyncio.to_thread(_write, service, encoded, dtype, media_type, body)
    return Response(content, media_type=media_type, headers=encoded.headers)


def _find_size(body: EncodeBody, dtype: str, media_type: str) -> AnswerSize:
    number_bytes = JSON_NUMBER_BYTES if media_type == JSON else measure_number(dtype)
    return AnswerSize(number_bytes=number_bytes, padded=getattr(torch, dtype) if body.pipeline else None)


async def _encode(service: ModelService, body: EncodeBody, size: AnswerSize) -> Encoded:
    if body.ids is not None:
        return await encode_batch(service, body.ids, truncate=body.truncate is True, field="ids", size=size)
    if body.pipeline and (body.recipe or service.recipe or NO_RECIPE) == NO_RECIPE:
        raise refuse_value("pipeline", "expected a recipe, whose pipeline it is, got none")
    if body.pipeline and not body.texts:
        raise refuse_empty("texts")
    return await encode_captions(
        service,
        body.texts or [],
        body.recipe,
        body.recipe_options,
        truncate=body.truncate,
        with_null=body.null or body.pipeline,
        size=size,
    )


def _write(service: ModelService, encoded: Encoded, dtype: str, media_type: str, body: EncodeBody) -> bytes:
    embeddings = join_texts(encoded.hidden, dtype, service.dim)
    if encoded.recipe is None and service.pooler.names:
        embeddings = replace(embeddings, pooler=service.pooler)
    if encoded.recipe is not None:
        null = None if encoded.null is None else _cast_null(encoded.null, dtype)
        embeddings = replace(embeddings, conditioning=Conditioning(encoded.recipe, null))
    return WRITERS[media_type](
        TokenEmbeddings(embeddings, encoded.truncated, service.name, service.fingerprint, body.null, body.pipeline)
    )


def _cast_null(null: Tensor, dtype: str) -> Tensor:
    """The same in the dtype of the answer; RefusedError (424) where it is out of its range."""
    cast = null.to(getattr(torch, dtype))
    if not torch.isfinite(cast).all():
        raise RefusedError(424, "Backend", f"null: embedding is out of the range of {dtype}", field="null")
    return cast
