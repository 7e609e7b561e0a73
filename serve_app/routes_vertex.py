"""Vertex AI's form of `/embed`: several of its bodies in one request, of which all are answered or none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.responses import Response
from torch import Tensor

from serve_app.account import find_account
from serve_app.answer_forms import POOLED
from serve_app.bodies import make_route_class
from serve_app.encoding import Tokenized, check_count, check_tokens, encode_tokenized, join_tokenized, tokenize_batch
from serve_app.models import Models
from serve_app.pooling import check_dimensions
from serve_app.refused import refuse_empty
from serve_app.routes_tei import check_prompt
from serve_app.routing import add_route
from serve_app.schema import EmbedBody, TeiError, VertexBody, as_batch
from serve_app.service import ModelService
from t5enc.errors import PrecisionError


def make_router(models: Models) -> APIRouter:
    """The route, for these models."""
    router = APIRouter(tags=["text-embeddings-inference"], route_class=make_route_class(models))
    add_route(router, "POST", "/vertex", embed_instances, models, error=TeiError)
    return router


async def embed_instances(models: Models, body: VertexBody) -> Response:
    """Vertex AI's form of `/embed`: a prediction for each instance, the list of its vectors. All or none."""
    find_account().note_method("batch")
    if not body.instances:
        raise refuse_empty("instances")
    counts = [len(as_batch(instance.inputs)) for instance in body.instances]
    check_count(sum(counts), models.default, "instances")
    tokenized = [await _tokenize(models, instance) for instance in body.instances]
    places = _place_by_model(models, body.instances)
    for name, mine in places.items():
        check_tokens(
            [prompt for place in mine for prompt in tokenized[place].request.prompts], models[name], "instances"
        )
    predictions: list[list[list[float]]] = [[]] * len(counts)
    for name, mine in places.items():
        hidden = await _encode(models[name], [tokenized[place] for place in mine], _number_texts(counts, mine))
        for place in mine:
            texts = [next(hidden) for _ in range(counts[place])]
            predictions[place] = await asyncio.to_thread(_pool, models[name], texts, body.instances[place])
    return Response(await asyncio.to_thread(to_json, {"predictions": predictions}), media_type="application/json")


async def _tokenize(models: Models, instance: EmbedBody) -> Tokenized:
    service = models.find(instance.model)
    check_dimensions(instance.dimensions, service)
    check_prompt(instance.prompt_name)
    truncate = instance.truncate is not False
    return await tokenize_batch(service, instance.inputs, truncate=truncate, field="inputs", cut=instance.cut)


def _place_by_model(models: Models, instances: Sequence[EmbedBody]) -> dict[str, list[int]]:
    """The places of each model's instances, by its name."""
    places: dict[str, list[int]] = {}
    for place, instance in enumerate(instances):
        places.setdefault(models.find(instance.model).name, []).append(place)
    return places


def _number_texts(counts: Sequence[int], places: Iterable[int]) -> list[int]:
    """The numbers of the texts of some instances among those of all."""
    return [sum(counts[:place]) + index for place in places for index in range(counts[place])]


async def _encode(service: ModelService, tokenized: Sequence[Tokenized], numbers: Sequence[int]) -> Iterator[Tensor]:
    """One (tokens, M) a text of one model's instances; PrecisionError names texts by their numbers in the request."""
    try:
        encoded = await encode_tokenized(service, join_tokenized(tokenized), "instances", POOLED)
    except PrecisionError as error:
        raise PrecisionError({numbers[index]: reason for index, reason in error.failed.items()}) from error
    return iter(encoded.hidden)


def _pool(service: ModelService, texts: Sequence[Tensor], instance: EmbedBody) -> list[list[float]]:
    return [service.pool(text, normalize=instance.normalize is not False).tolist() for text in texts]
