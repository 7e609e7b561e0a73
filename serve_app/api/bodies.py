"""JSON bodies to their models: large ones beside the event loop, and none of more texts than are taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.api.schema import MAX_TEXTS
from serve_app.served.memory import hold_until_answered
from serve_app.served.models import Models
from serve_app.served.refusals import RefusedError

# What takes a millisecond or so to parse is not worth a thread.
LARGEST_INLINE = 64 << 10


def make_route_class(models: Models) -> type[APIRoute]:
    """Routes whose bodies are refused at the first wrong element, and for too many texts before they are looked at.

    What a request holds of a Memory is given back when it has been answered.
    """
    max_texts = models.default.limits.max_texts

    class BodyRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()
            model = _find_model(self)

            async def handle(request: Request) -> Response:
                try:
                    return await answer(_BodyRequest(request, model, max_texts))
                except HTTPException as error:
                    # FastAPI takes whatever reading a body raises for broken JSON.
                    if isinstance(error.__cause__, (RefusedError, RequestValidationError)):
                        raise error.__cause__ from None
                    raise

            return handle

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            with hold_until_answered():
                await super().handle(scope, receive, send)

    return BodyRoute


def _find_model(route: APIRoute) -> type[BaseModel] | None:
    """What the body of a route is; None where it reads none."""
    found = None if route.body_field is None else route.body_field.field_info.annotation
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


class _BodyRequest(Request):
    """Its JSON is an instance of the route's model, which FastAPI takes as it is."""

    def __init__(self, request: Request, model: type[BaseModel] | None, max_texts: int) -> None:
        super().__init__(request.scope, request.receive)
        self._model, self._max_texts = model, max_texts

    async def json(self) -> Any:
        body = await self.body()
        if len(body) > LARGEST_INLINE:
            return await asyncio.to_thread(self._read, body)
        return self._read(body)

    def _read(self, body: bytes) -> Any:
        content = json.loads(body)
        return content if self._model is None else check_body(self._model, content, self._max_texts)


def check_body(model: type[BaseModel], content: Any, max_texts: int) -> BaseModel:
    """The model's instance; RequestValidationError for the wrong shape, RefusedError for more texts than are taken."""
    try:
        return model.model_validate(content, context={MAX_TEXTS: max_texts})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        for problem in problems:
            if isinstance(refused := problem.get("ctx", {}).get("error"), RefusedError):
                raise refused from None
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in problems]) from error
