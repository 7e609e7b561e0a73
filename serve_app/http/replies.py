"""Errors as answers: in OpenAI's shape under /v1 and of /embeddings, in TEI's everywhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from serve_app.http.paths import find_path
from serve_app.served.notes import find_notes

# OpenAI's error types where "invalid_request_error" is not one.
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
OPENAI_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
# TEI's word for why a request failed, where its status says so; it has none for an unknown key.
REASONS = {401: "unauthorized", 408: "dropped", 424: "inference", 429: "overloaded"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request has no other answer: `kind` is TEI's error_type, `param` and `code` are OpenAI's.

    `failed` names the texts that are at fault; `reason` is what the metrics call it, by the status where it is None.
    """

    status: int
    kind: str
    message: str
    param: str | None = None
    code: str | None = None
    reason: str | None = None
    failed: Mapping[int, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, Any]:
        """What an error says beyond its API's own fields, where texts are at fault."""
        return {"failed": dict(self.failed)} if self.failed else {}


def make_reply(scope: Scope, failure: Failure) -> Response:
    """The answer to a failed request, in the shape of the API that its path belongs to; why it failed is noted."""
    find_notes().reason = failure.reason or name_reason(failure.status)
    content = _openai_shape(failure) if _is_openai(scope) else _tei_shape(failure)
    # Escaped to ASCII: a message may quote what is no Unicode text.
    return Response(
        json.dumps(content), status_code=failure.status, media_type="application/json", headers=dict(failure.headers)
    )


def _is_openai(scope: Scope) -> bool:
    path = find_path(scope)
    return path.startswith("/v1/") or path == "/embeddings"


def name_reason(status: int) -> str:
    """TEI's word for a failure of which no more is known than its status."""
    return REASONS.get(status, "validation" if status < 500 else "inference")


def _tei_shape(failure: Failure) -> dict[str, Any]:
    return {"error": failure.message, "error_type": failure.kind} | failure.places


def _openai_shape(failure: Failure) -> dict[str, Any]:
    is_server = failure.status >= 500 or failure.kind == "Backend"
    kind = OPENAI_TYPES.get(failure.status, "server_error" if is_server else "invalid_request_error")
    code = failure.code or OPENAI_CODES.get(failure.status)
    content = {"message": failure.message, "type": kind, "param": failure.param, "code": code}
    return {"error": content | failure.places}
