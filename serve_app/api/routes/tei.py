"""Routes of Hugging Face's text-embeddings-inference, whose clients work here as they are.

`/embed` (which is `POST /` and `/invocations`, too) and `/similarity` pool: the mean of a text's tokens, of unit
length. Texts over the limit are cut, as TEI does, unless `truncate` is false. `model` in a body picks one of several
models; TEI has no such field. Vertex AI's form of `/embed` is not among the routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.responses import Response

from serve_app.api.answer_size import NESTED, POOLED, AnswerSize
from serve_app.api.bodies import make_route_class
from serve_app.api.encoding import Encoded, check_pooling, encode_batch, pool_texts, take_batch
from serve_app.api.routing import Handler, add_route, answer_json
from serve_app.api.schema import (
    DecodeBody,
    EmbedAllBody,
    EmbedBody,
    Input,
    SimilarityBody,
    TeiError,
    TokenizeBody,
    TruncateBody,
)
from serve_app.api.wire import write_nested
from serve_app.served.models import Models
from serve_app.served.refusals import RefusedError, refuse_value
from serve_app.served.service import TOKENIZER_THREADS, ModelService
from t5enc.text.token_spans import TokenSpan


def make_router(models: Models) -> APIRouter:
    """TEI's routes, for these models; `GET /` is the page's."""
    router = APIRouter(tags=["text-embeddings-inference"], route_class=make_route_class(models))
    for path, handler in POSTED.items():
        add_route(router, "POST", path, handler, models, error=TeiError)
    for path, expected in OF_OTHER_MODELS.items():
        add_route(router, "POST", path, refuse_model, models, path, expected, error=TeiError)
    add_route(router, "GET", "/info", describe_model, models, error=TeiError)
    for path in ("/health", "/ping"):
        add_route(router, "GET", path, check_health, models, error=TeiError, media_types=())
    return router


async def embed(models: Models, body: EmbedBody) -> Response:
    """One vector a text: the mean of its tokens' embeddings, of unit length unless `normalize` is false."""
    service = models.find(body.model)
    check_pooling(body.dimensions, service)
    encoded = await _encode(service, body.inputs, body, POOLED)
    return answer_json(await asyncio.to_thread(_pool, service, encoded, body), encoded.headers)


async def refuse_model(models: Models, path: str, expected: str) -> Response:
    """TEI's route for models of another kind, of which none is served here: always 424."""
    found = f"{models.default.name}, an encoder with one embedding a token"
    raise RefusedError(424, "Backend", f"{path}: expected {expected}, got {found}", reason="model_type")


async def embed_all(models: Models, body: EmbedAllBody) -> Response:
    """The embedding of every token as nested lists; `/encode` gives them as a tenth of the bytes."""
    encoded = await _encode(models.find(body.model), body.inputs, body, NESTED)
    return answer_json(await asyncio.to_thread(write_nested, encoded.hidden), encoded.headers)


async def compare(models: Models, body: SimilarityBody) -> Response:
    """Cosine similarity of one sentence with each of the others, by their pooled vectors."""
    service = models.find(body.model)
    check_pooling(None, service)
    sentences = take_batch(body.inputs.sentences, service, "sentences")
    batch = [body.inputs.source_sentence, *sentences]
    encoded = await _encode(service, batch, body.parameters or TruncateBody(), POOLED)
    vectors = await asyncio.to_thread(pool_texts, service.pooler, encoded)
    return answer_json((vectors[1:] @ vectors[0]).tolist(), encoded.headers)


async def tokenize(models: Models, body: TokenizeBody) -> Response:
    """What the tokenizer makes of texts, token by token; nothing is cut."""
    service = models.find(body.model)
    check_prompt(body.prompt_name)
    texts = [text for text in take_batch(body.inputs, service, "inputs") if isinstance(text, str)]
    return answer_json(await asyncio.to_thread(_describe, await service.split_texts(texts), body.add_special_tokens))


async def decode(models: Models, body: DecodeBody) -> Response:
    """The texts that token ids stand for."""
    service = models.find(body.model)
    lists = [text for text in take_batch(body.ids, service, "ids") if isinstance(text, list)]
    return answer_json(await service.decode_lists(lists, body.skip_special_tokens))


async def describe_model(models: Models, model: str | None = None) -> Response:
    """TEI's description of the default model, or of `?model=`; and its width, fingerprint and recipe."""
    return answer_json(make_info(models.find(model)))


async def check_health(models: Models) -> Response:
    """200 with no body while every model answers, else 503."""
    sick = [name for name, service in models.items() if not service.is_healthy()]
    if sick:
        raise RefusedError(503, "Unhealthy", "unhealthy")
    return Response()


def make_info(service: ModelService) -> dict[str, Any]:
    """The fields of TEI's `/info`."""
    from importlib.metadata import version

    options, limits = service.options, service.limits
    return {
        "model_id": options.source.model,
        "model_sha": options.source.revision,
        "model_dtype": options.dtype,
        "served_model_name": service.name,
        "model_type": {"embedding": {"pooling": " and ".join(service.pooler.methods)}},
        "max_concurrent_requests": limits.queue_texts,
        "max_input_length": limits.max_length,
        "max_batch_tokens": options.token_budget,
        "max_batch_requests": None,
        "max_client_batch_size": limits.max_texts,
        "auto_truncate": True,
        "tokenization_workers": TOKENIZER_THREADS,
        "version": version("t5enc"),
        "sha": None,
        "docker_label": None,
        "model_dim": service.dim,
        "pooled_dim": service.pooled_dim,
        "pooling_modules": list(service.pooler.names),
        "fingerprint": service.fingerprint,
        "recipe": None if service.recipe is None else service.recipe.name,
    }


POSTED: dict[str, Handler] = {
    "/": embed,
    "/embed": embed,
    "/invocations": embed,
    "/embed_all": embed_all,
    "/similarity": compare,
    "/tokenize": tokenize,
    "/decode": decode,
}
OF_OTHER_MODELS = {
    "/embed_sparse": "a model with sparse embeddings",
    "/predict": "a classifier",
    "/rerank": "a re-ranker",
}


async def _encode(service: ModelService, inputs: Input, body: TruncateBody, size: AnswerSize) -> Encoded:
    check_prompt(body.prompt_name)
    truncate = body.truncate is not False
    return await encode_batch(service, inputs, truncate=truncate, field="inputs", size=size, cut=body.cut)


def _pool(service: ModelService, encoded: Encoded, body: EmbedBody) -> bytes:
    return to_json(pool_texts(service.pooler, encoded, normalize=body.normalize is not False).tolist())


def check_prompt(name: str | None) -> None:
    """RefusedError for any of TEI's names of prompts."""
    if name is not None:
        raise refuse_value("prompt_name", f"expected none, since the model has no prompts, got {name!r}")


def _describe(texts: Sequence[Sequence[TokenSpan]], with_special: bool) -> list[list[dict[str, Any]]]:
    names = ("id", "text", "special", "start", "stop")
    tokens = [[dict(zip(names, span, strict=True)) for span in text] for text in texts]
    return [[token for token in text if with_special or not token["special"]] for text in tokens]
