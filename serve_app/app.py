"""The Serve application: one ingress deployment, whose replica holds the models, their queues and the HTTP routes.

No deployment handle lies between a request and the model: that hop costs more than a short prompt's computation.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application, Deployment
from starlette.middleware import Middleware

from serve_app.auth import KeyRing, RequireKeys
from serve_app.body_limits import LimitBodies
from serve_app.config import MAX_ONGOING_REQUESTS, ServeConfig, check_exposure
from serve_app.http import make_http
from serve_app.metrics import BatchMetrics, MeterRequests
from serve_app.models import Models
from serve_app.service import ModelService

# Seconds between two reports of what the batchers did.
REPORT_PERIOD = 5.0
HEALTH_PERIOD = 2.0
# Requests in the air, a replica, that autoscaling aims at.
TARGET_ONGOING_REQUESTS = 64


class UnhealthyModelError(Exception):
    """A model does not answer any more; Serve replaces the replica that says so."""


@serve.ingress()
class Ingress:
    """A replica: models loaded and warm before the first request, drained before the last one is gone."""

    async def __init__(self, options: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        """Loads every model, beside the event loop, so that Serve can ask meanwhile how the replica is."""
        self._config = ServeConfig.from_mapping(options)
        self._keys = KeyRing.from_environment(self._config.keys_file)
        check_exposure(self._config, self._keys is not None)
        self._models = await asyncio.to_thread(load_models, self._config)
        self._reports = asyncio.create_task(report_forever(BatchMetrics(self._models)))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve when the models are there."""
        return make_http(self._models, middlewares=make_middlewares(self._config, self._keys))

    def describe(self) -> list[dict[str, Any]]:
        """What each model is, for whoever started the service."""
        return [describe_model(service) for service in self._models.values()]

    async def check_health(self) -> None:
        """Raises where a model is stuck, or where its reports have stopped."""
        stuck = [name for name, service in self._models.items() if not service.is_healthy()]
        if stuck:
            raise UnhealthyModelError(f"expected every model to answer, got none from {', '.join(stuck)}")
        if self._reports.done():
            raise UnhealthyModelError(f"expected metrics to be reported, got: {self._reports}")

    async def __del__(self) -> None:
        """Called by Serve when the last request is answered."""
        if not hasattr(self, "_reports"):  # it never started
            return
        self._reports.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reports
        await asyncio.gather(*(service.close() for service in self._models.values()))


def build(args: dict[str, Any]) -> Application:
    """The application that `serve run serve_app.app:build model=M` and Serve's YAML name.

    Raises ConfigError for what cannot be honoured, before anything is started.
    """
    config = ServeConfig.from_mapping(args)
    return make_deployment(config).bind(config.to_mapping())


def make_deployment(config: ServeConfig) -> Deployment:
    """How many replicas, on what, and how they go."""
    low, high = config.replica_range()
    scaling: dict[str, Any] = {"num_replicas": low}
    if high > low:
        scaling = {"autoscaling_config": make_scaling(low, high)}
    actor = {"num_cpus": config.num_cpus} | ({"num_gpus": config.num_gpus} if config.num_gpus else {})
    return serve.deployment(
        Ingress,
        name="t5enc",
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        health_check_period_s=HEALTH_PERIOD,
        health_check_timeout_s=config.stuck_seconds,
        max_constructor_retry_count=3,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.drain_seconds,
        ray_actor_options=actor,
        **scaling,
    )


def make_scaling(low: int, high: int) -> dict[str, Any]:
    """Autoscaling by requests that are being answered, which queue in the replica and not before it."""
    return {
        "min_replicas": low,
        "max_replicas": high,
        "target_ongoing_requests": TARGET_ONGOING_REQUESTS,
        "upscale_delay_s": 10,
        "downscale_delay_s": 300,
    }


def make_middlewares(config: ServeConfig, keys: KeyRing | None) -> list[Middleware]:
    """Outermost first: every request is counted, none without a key has its body read."""
    limits = Middleware(LimitBodies, max_bytes=config.max_body_bytes, seconds=config.body_seconds)
    return [Middleware(MeterRequests), *([Middleware(RequireKeys, keys=keys)] if keys else []), limits]


def load_models(config: ServeConfig) -> Models:
    """Every model, one after the other: each may need the memory of two while it loads."""
    encoders = config.encoders().items()
    return Models([ModelService(name, options, config.limits(options.max_length)) for name, options in encoders])


def describe_model(service: ModelService) -> dict[str, Any]:
    """Its name and where it came from, and what was left open and is now known."""
    chosen = ("device", "dtype", "attention", "token_budget", "max_length")
    found = {name: getattr(service.options, name) for name in chosen}
    return {"name": service.name, "model": service.options.model} | found | {"dim": service.dim}


async def report_forever(metrics: BatchMetrics) -> None:
    """Report what the models do until cancelled."""
    while True:
        metrics.report()
        await asyncio.sleep(REPORT_PERIOD)
