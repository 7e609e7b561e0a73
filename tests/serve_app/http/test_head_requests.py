"""HEAD on what answers GET, and the methods that a refusal names."""

from __future__ import annotations

import pytest

from serve_app.api.application import make_http
from serve_app.http.metering import Metrics
from serve_app.served.models import Models
from tests.serve_app.in_process import ask, load_app, load_service

MODELS = Models([load_service()])
APP = make_http(MODELS, metrics=Metrics(MODELS, with_ray=False))
DESCRIBED = [path for path, methods in APP.openapi()["paths"].items() if "get" in methods and "{" not in path]


@pytest.mark.parametrize("path", [*DESCRIBED, "/docs", "/openapi.json"])
def test_head_is_get_without_a_body(path: str) -> None:
    got, head = ask("GET", path, app=APP), ask("HEAD", path, app=APP)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    assert head.headers.get("content-type") == got.headers.get("content-type")


def test_the_paths_that_balancers_ask_for_are_among_them() -> None:
    assert {"/", "/health", "/ping", "/info", "/metrics", "/v1/models", "/stats"} <= set(DESCRIBED)


def test_head_is_not_described() -> None:
    assert not [path for path, methods in APP.openapi()["paths"].items() if "head" in methods]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/", "GET, HEAD, POST"),
        ("PUT", "/v1/models", "GET, HEAD"),
        ("GET", "/embed", "POST"),
        ("HEAD", "/embed", "POST"),
        ("DELETE", "/openapi.json", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_served_is_told_which_are(method: str, path: str, allowed: str) -> None:
    answer = ask(method, path, app=load_app())
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
