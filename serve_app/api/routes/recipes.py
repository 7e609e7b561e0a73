"""What recipes a model serves, and what they make of captions before anything is encoded."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from serve_app.api.bodies import make_route_class
from serve_app.api.encoding import take_batch
from serve_app.api.routing import add_route, answer_json
from serve_app.api.schema import PrepareBody, TeiError
from serve_app.served.models import Models
from serve_app.served.recipes import ShownCaption
from serve_app.served.refusals import refuse_value


def make_router(models: Models) -> APIRouter:
    """The routes, for these models."""
    router = APIRouter(tags=["t5enc"], route_class=make_route_class(models))
    add_route(router, "GET", "/recipes", list_recipes, models, error=TeiError)
    add_route(router, "POST", "/prepare", prepare, models, error=TeiError)
    return router


async def list_recipes(models: Models, model: str | None = None) -> Response:
    """The recipes that fit the default model, or `?model=`, with length, options and what they do.

    `default` is the one that `/encode` follows where a request names none. `reason` says why a recipe cannot be had as
    it stands: it is too long for this service, for example, and may be asked for with a shorter length.
    """
    service = models.find(model)
    default = None if service.recipe is None else service.recipe.name
    return answer_json({"default": default, "recipes": service.list_recipes()})


async def prepare(models: Models, body: PrepareBody) -> Response:
    """What a recipe makes of captions: the texts that are encoded, their ids (computed pads are among them), and rows.

    Of each document all attend to the first `attended` ids, and the rows of the first `kept` are kept. `tokens` are
    those before a text is cut, `pads` those of the ids that stand for no token.
    """
    service = models.find(body.model)
    take_batch(body.texts, service, "texts")
    shown = await service.show(body.texts, body.recipe, body.recipe_options)
    if shown is None:
        raise refuse_value("recipe", "expected one of /recipes, got none; see /tokenize")
    return answer_json([_describe(caption) for caption in shown])


def _describe(caption: ShownCaption) -> dict[str, Any]:
    documents = [
        {"ids": document.ids.tolist(), "attended": document.keys, "kept": document.kept}
        for document in caption.prompt.documents
    ]
    return {
        "texts": caption.texts,
        "documents": documents,
        "computed": caption.prompt.tokens,
        "pads": caption.pads,
        "rows": caption.prompt.rows,
        "tokens": caption.tokens,
        "truncated": caption.is_truncated,
    }
