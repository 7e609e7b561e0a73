"""Handlers as routes: free functions whose first arguments are bound, described by their docstrings; JSON answers."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response
from starlette.routing import Match

Handler = Callable[..., Awaitable[Response]]
# Those that a route may have; HEAD goes with GET.
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


def add_route(
    router: APIRouter,
    method: str,
    path: str,
    handler: Handler,
    *context: object,
    error: type[BaseModel],
    media_types: tuple[str, ...] = ("application/json",),
) -> None:
    """Serve `handler(*context, ...)`; `error` is the shape of its refusals, `media_types` those of its answers."""
    responses: dict[int | str, dict[str, Any]] = {
        200: {"content": {media_type: {} for media_type in media_types}},
        "4XX": {"model": error},
    }
    router.add_api_route(
        path,
        partial(handler, *context),
        methods=[method],
        name=handler.__name__,
        description=inspect.getdoc(handler),
        response_class=Response,
        responses=responses,
    )


def answer_json(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON; bytes are JSON already."""
    body = content if isinstance(content, bytes) else to_json(content)
    return Response(body, media_type="application/json", headers=headers)


def list_methods(request: Request) -> str:
    """The methods that the path of a request is served by, as the header Allow has them."""
    served = {method for method in METHODS if _is_served(request, method)}
    return ", ".join(sorted(served | ({"HEAD"} if "GET" in served else set())))


def _is_served(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
