"""The application's own description, and requests that a machine makes up from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.serve_app.in_process import load_app

schemathesis = pytest.importorskip("schemathesis", reason="needs the package schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks", reason="needs the package schemathesis")
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", load_app())
LEFT_OUT = [
    # A body of the right shape may ask for what cannot be honoured: a model that is not there, no texts at all.
    checks.positive_data_acceptance,
]


@SCHEMA.parametrize()
@settings(max_examples=min(settings.default.max_examples, 200), database=None, suppress_health_check=list(HealthCheck))
def test_made_up_requests_are_answered_as_described(case: Any) -> None:
    case.call_and_validate(excluded_checks=LEFT_OUT)
