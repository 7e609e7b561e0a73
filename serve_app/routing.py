"""Handlers as routes: free functions whose first arguments are bound, described by their own docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

Handler = Callable[..., Awaitable[Response]]


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
