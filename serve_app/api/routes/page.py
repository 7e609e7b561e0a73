"""The page at `/` for people with a browser, and the live figures that it shows.

Everything is in one answer, and its Content-Security-Policy lets nothing else in: no other host is ever asked.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve_app.api.media_types import pick_media_type
from serve_app.api.routes.tei import check_health
from serve_app.served.models import Models
from serve_app.served.service import ModelService
from t5enc.errors import InputError

HTML = "text/html"


def page_router(models: Models) -> APIRouter:
    """`GET /` (the page for who asks for HTML, else TEI's health) and `GET /stats`."""
    router = APIRouter(tags=["page"])
    # Behind a balancer each poll may meet another replica, and rates are differences within one.
    replica = uuid.uuid4().hex[:8]

    @router.get("/", response_class=Response)
    async def show_page(request: Request) -> Response:
        """The page for a browser; for anyone else the same as `/health`."""
        if not wants_page(request.headers.getlist("accept")):
            return await check_health(models)
        content, policy = load_page()
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache", "Vary": "Accept"}
        return Response(content, media_type=HTML, headers=headers)

    @router.get("/stats")
    async def show_stats() -> JSONResponse:
        """What waits and runs in this replica, and what was done since it started, by model."""
        figures = {name: describe_load(service) for name, service in models.items()}
        return JSONResponse({"replica": replica, "default": models.default.name, "models": figures})

    return router


def wants_page(accept: Sequence[str]) -> bool:
    """Whether Accept headers prefer HTML; probes accept anything or nothing in particular, and get no page."""
    try:
        return pick_media_type(accept, ["application/json", HTML]) == HTML
    except InputError:
        return False


def describe_load(service: ModelService) -> dict[str, Any]:
    """A model's figures now, and how much its queue takes."""
    limits = {"max_queued_texts": service.limits.queue_texts, "max_queued_tokens": service.limits.queue_tokens}
    return {"is_healthy": service.is_healthy()} | limits | asdict(service.snapshot())


@cache
def load_page() -> tuple[bytes, str]:
    """The page with its style and script inside, and the policy that allows these two and nothing more."""
    folder = files("serve_app.api") / "static"
    page, style, script = ((folder / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js"))
    content = page.replace("/* page.css */", style).replace("/* page.js */", script)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return content.encode(), policy


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
