"""Exceptions as answers: of the routes, of the router and of this project, in the shape of the path's API."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from serve_app.api.routing import list_methods
from serve_app.api.schema import describe
from serve_app.http.replies import Failure, make_reply
from serve_app.served.refusals import RefusedError
from t5enc.errors import InputError, OverloadedError, PrecisionError

# Problems of a body that are listed one by one.
MOST_PROBLEMS = 3


def explain_input(error: InputError) -> Failure:
    """What cannot be encoded as given, and what the routes refuse."""
    if not isinstance(error, RefusedError):
        return Failure(status=422, kind="Validation", message=str(error), reason="tokenization")
    return Failure(
        status=error.status,
        kind=error.kind,
        message=str(error),
        param=error.field,
        code=error.code,
        reason=error.reason,
    )


def explain_overload(error: OverloadedError) -> Failure:
    """A full queue; Retry-After is whole seconds, at least one."""
    seconds = max(1, math.ceil(error.retry_after))
    return Failure(status=429, kind="Overloaded", message=str(error), headers={"Retry-After": str(seconds)})


def explain_precision(error: PrecisionError) -> Failure:
    """Texts that the model cannot compute; trying again would not help."""
    return Failure(status=424, kind="Backend", message=str(error), failed=error.failed)


def explain_body(request: Request, error: RequestValidationError) -> Failure:
    """A body that is no JSON (400), not said to be JSON (415), or not of the route's shape (422)."""
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        where, reason = problems[0]["loc"][-1], problems[0]["ctx"]["error"]
        return Failure(status=400, kind="Validation", message=f"body: expected JSON, got, at {where}: {reason}")
    if isinstance(error.body, bytes):
        found = request.headers.get("content-type", "none")
        message = f"Content-Type: expected application/json, got {found!r}"
        return Failure(status=415, kind="Validation", message=message)
    param = _name_place(problems[0]["loc"][1:2])
    return Failure(status=422, kind="Validation", message=_list_problems(problems), param=param or None)


def _list_problems(problems: Sequence[Mapping[str, Any]]) -> str:
    listed = "; ".join(_name_problem(problem) for problem in problems[:MOST_PROBLEMS])
    more = len(problems) - MOST_PROBLEMS
    return f"{listed} (and {more} more)" if more > 0 else listed


def _name_problem(problem: Mapping[str, Any]) -> str:
    place = _name_place(problem["loc"][1:]) or "body"
    if problem["type"] == "missing":
        return f"{place}: expected, and not there"
    if problem["type"] == "extra_forbidden":
        return f"{place}: no such field"
    if problem["type"] in ("inputs", "either"):
        return f"{place}: {problem['msg']}"
    return f"{place}: {problem['msg']}, got {describe(problem['input'])}"


def _name_place(place: Sequence[str | int]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    return "".join(parts).removeprefix(".")


def add_handlers(app: FastAPI) -> None:
    """Answer every exception of a route, of the router and of this project in the shape of the path's API."""

    @app.exception_handler(InputError)
    async def _(request: Request, error: InputError) -> Response:
        return make_reply(request.scope, explain_input(error))

    @app.exception_handler(OverloadedError)
    async def _(request: Request, error: OverloadedError) -> Response:
        return make_reply(request.scope, explain_overload(error))

    @app.exception_handler(PrecisionError)
    async def _(request: Request, error: PrecisionError) -> Response:
        return make_reply(request.scope, explain_precision(error))

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        return make_reply(request.scope, explain_body(request, error))

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        kind = "Validation" if error.status_code < 500 else "Backend"
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of the path's first route alone
            headers["Allow"] = list_methods(request)
        failure = Failure(status=error.status_code, kind=kind, message=str(error.detail), headers=headers)
        return make_reply(request.scope, failure)

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> Response:
        # Raised again by the server, whose log has it in full.
        return make_reply(request.scope, Failure(status=500, kind="Backend", message="Internal server error"))
