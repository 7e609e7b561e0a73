"""The HTTP application: every API's routes over one set of models."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response

from serve_app.api.error_handlers import add_handlers
from serve_app.api.routes import encode as routes_encode
from serve_app.api.routes import openai as routes_openai
from serve_app.api.routes import recipes as routes_recipes
from serve_app.api.routes import tei as routes_tei
from serve_app.api.routes.page import page_router
from serve_app.http.head_requests import AnswerHeadRequests
from serve_app.http.metering import Metrics
from serve_app.served.models import Models

DESCRIPTION = """T5-family text encoders: the embedding of every token by `/encode` and `/embed_all`; one vector a
text, the mean of its tokens' embeddings, of unit length (Sentence-T5), by `/embed`, `/similarity` and
`/v1/embeddings`. `/encode` follows recipes: what a diffusion pipeline feeds its T5 (`/recipes`)."""


def make_http(models: Models, *, middlewares: Sequence[Middleware] = (), metrics: Metrics | None = None) -> FastAPI:
    """The application; `middlewares` are around it, the first outermost. Its description is at /docs.

    `metrics` are shown at /metrics: of one replica of several, behind a balancer, they would be anyone's.
    """
    app = FastAPI(
        title="t5enc",
        version=version("t5enc"),
        description=DESCRIPTION,
        middleware=[*middlewares, Middleware(AnswerHeadRequests)],
        redirect_slashes=False,
    )
    add_handlers(app)
    for router in (
        routes_encode.make_router(models),
        routes_recipes.make_router(models),
        routes_tei.make_router(models),
        routes_openai.make_router(models),
        page_router(models),
    ):
        app.include_router(router)
    if metrics is not None:
        add_metrics(app, metrics)
    return app


def add_metrics(app: FastAPI, metrics: Metrics) -> None:
    """`GET /metrics`."""

    @app.get("/metrics", response_class=PlainTextResponse, tags=["metrics"])
    async def show_metrics() -> Response:
        """What this server has counted, in Prometheus' text format."""
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
