"""The Serve application: one ingress deployment, whose replica holds the models, their queues and the HTTP routes.

No deployment handle lies between a request and the model: that hop costs more than a short prompt's computation.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import BackpressureConfig
from starlette.middleware import Middleware

from serve_app.api.application import make_http
from serve_app.config import DEPLOYMENT, MAX_ONGOING_REQUESTS, ServeConfig, check_exposure
from serve_app.http.body_limits import LimitBodies
from serve_app.http.keys import KeyRing, RequireKeys
from serve_app.http.metering import MeterRequests, Metrics
from serve_app.ray_private import find_host
from serve_app.served.models import Models
from serve_app.served.scaling import LOAD, choose_target, make_scaling
from serve_app.served.service import ModelService

# Seconds between two reports of what the batchers did.
REPORT_PERIOD = 5.0
HEALTH_PERIOD = 2.0
# Requests that wait for a place among those that a replica answers; 429 past them.
MAX_QUEUED_REQUESTS = 256
# Of an event loop: a model that does not answer is the batcher's to tell.
HEALTH_TIMEOUT = 10.0


class UnhealthyModelError(Exception):
    """A model does not answer any more; Serve replaces the replica that says so."""


@serve.ingress()
class Ingress:
    """A replica: models loaded and warm before the first request, drained before the last one is gone."""

    async def __init__(self, options: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        """Loads every model, beside the event loop, so that Serve can ask meanwhile how the replica is."""
        self._config = ServeConfig.from_mapping(options)
        self._keys = KeyRing.from_environment(self._config.keys_file)
        host = await asyncio.to_thread(find_host)
        check_exposure(replace(self._config, host=host), self._keys is not None)
        self._models = await asyncio.to_thread(load_models, self._config)
        self._metrics = Metrics(self._models, with_ray=True)
        self._reports = asyncio.create_task(report_forever(self._metrics))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve when the models are there."""
        is_alone = self._config.replica_range()[1] == 1
        middlewares = make_middlewares(self._config, self._keys, self._metrics)
        return make_http(self._models, middlewares=middlewares, metrics=self._metrics if is_alone else None)

    def describe(self) -> list[dict[str, Any]]:
        """What each model is, for whoever started the service."""
        return [describe_loaded(service) for service in self._models.values()]

    async def check_health(self) -> None:
        """Raises where a model is stuck, or where its reports have stopped."""
        stuck = [name for name, service in self._models.items() if not service.is_healthy()]
        if stuck:
            raise UnhealthyModelError(f"expected every model to answer, got none from {', '.join(stuck)}")
        if self._reports.done():
            raise UnhealthyModelError(f"expected metrics to be reported, got: {self._reports}")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve now and then: the sum of the models' loads, which says when there shall be more replicas."""
        return {LOAD: sum(measure_load(service, self._config.target_tokens) for service in self._models.values())}

    async def __del__(self) -> None:
        """Called by Serve when the last request is answered."""
        if not hasattr(self, "_reports"):  # it never started
            return
        self._reports.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reports
        await asyncio.gather(*(service.close() for service in self._models.values()))
        self._metrics.report()


def build(args: dict[str, Any]) -> Application:
    """The application that `serve run serve_app.app:build model=M` and Serve's YAML name.

    Raises ConfigError for what cannot be honoured, before anything is started.
    """
    return make_application(ServeConfig.from_application(args))


def make_application(config: ServeConfig) -> Application:
    """The same for options that are known to be good."""
    return make_deployment(config).bind(config.to_mapping())


def make_deployment(config: ServeConfig) -> Deployment:
    """How many replicas, on what, and how they go."""
    low, high = config.replica_range()
    scaling: dict[str, Any] = {"num_replicas": low}
    if high > low:
        delays = {"upscale_seconds": config.upscale_seconds, "downscale_seconds": config.downscale_seconds}
        scaling = {"autoscaling_config": make_scaling(low, high, **delays)}
    gpus = count_gpus(config)
    actor = {"num_cpus": config.num_cpus} | ({"num_gpus": gpus} if gpus else {})
    return serve.deployment(
        Ingress,
        name=DEPLOYMENT,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        health_check_period_s=HEALTH_PERIOD,
        health_check_timeout_s=HEALTH_TIMEOUT,
        max_queued_requests=MAX_QUEUED_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        max_constructor_retry_count=3,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.drain_seconds,
        ray_actor_options=actor,
        **scaling,
    )


def make_middlewares(config: ServeConfig, keys: KeyRing | None, metrics: Metrics) -> list[Middleware]:
    """Outermost first: every request is counted, none without a key has its body read."""
    limits = Middleware(LimitBodies, max_bytes=config.max_body_bytes, seconds=config.body_seconds)
    metering = Middleware(MeterRequests, metrics=metrics)
    return [metering, *([Middleware(RequireKeys, keys=keys)] if keys else []), limits]


def load_models(config: ServeConfig) -> Models:
    """Every model, one after the other: each may need the memory of two while it loads."""
    encoders = config.encoders().items()
    return Models([ModelService(name, options, config.limits(options.max_length)) for name, options in encoders])


def count_gpus(config: ServeConfig) -> float:
    """GPUs of a replica: as asked, or one where it computes on one; Ray would put all replicas on the first else."""
    if config.num_gpus is not None:
        return config.num_gpus
    device = config.encoder.device or "auto"
    return 1.0 if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()) else 0.0


def measure_load(service: ModelService, target: int | None) -> float:
    """Tokens that wait and run, where 1 is the target (by default what keeps the model busy)."""
    assert service.options.token_budget is not None
    found = service.snapshot()
    wanted = target or choose_target(service.options.token_budget, service.limits.queue_tokens)
    return (found.queued_tokens + found.running_tokens) / wanted


def describe_loaded(service: ModelService) -> dict[str, Any]:
    """Its name and where it came from, and what was left open and is now known."""
    chosen = ("device", "dtype", "attention", "token_budget")
    found = {name: getattr(service.options, name) for name in chosen} | {"max_length": service.limits.max_length}
    recipe = {} if service.recipe is None else {"recipe": service.recipe.name}
    return {"name": service.name, "model": service.options.source.model} | recipe | found | {"dim": service.dim}


async def report_forever(metrics: Metrics) -> None:
    """Report what the models do until cancelled."""
    while True:
        metrics.report()
        await asyncio.sleep(REPORT_PERIOD)
