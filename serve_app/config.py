"""What a service is asked for: read once at the edge, refused by name where it cannot be honoured."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Unpack

from serve_app.served.service import ServiceLimits
from t5enc.errors import ConfigError
from t5enc.fields.parts import PLACE, check_names, fill, find_default, list_options, list_values, show_names, without
from t5enc.fields.words import read_words
from t5enc.options import EncoderOptions, SharedNames
from t5enc.recipes.opening import is_recipe_file, open_recipe
from t5enc.recipes.recipe import Recipe

# The name of our deployment in Serve, and what of our options it must be told itself: an application cannot say it.
DEPLOYMENT = "t5enc"
SAID_TO_SERVE = ("host", "port", "route_prefix")
# Requests that a replica takes in at once. Far above what fills a batch: one request may be a single short text.
MAX_ONGOING_REQUESTS = 4096
ROUTE = re.compile(r"/|(/[\w.~-]+)+")
# What further models have as the first does, where they do not say it.
SHARED_NAMES = ("max_length", "token_budget", "dtype", "device", "device_share", "local_files_only", "compile_cache")
LIMIT_NAMES = tuple(entry.name for entry in fields(ServiceLimits) if entry.name != "max_length")
DEFAULTS = ServiceLimits()


class ServeNames(SharedNames, total=False):
    """What a ServeConfig is made of: a model, or the whole `encoder`, and the rest."""

    model: str | os.PathLike[str]
    encoder: EncoderOptions
    num_threads: int | None
    name: str | None
    models: Mapping[str, Mapping[str, Any]]
    host: str
    port: int
    route_prefix: str
    keys_file: str | os.PathLike[str] | None
    require_keys: bool | None
    insecure: bool | None
    replicas: str
    num_gpus: float | None
    num_cpus: float
    target_tokens: int | None
    upscale_seconds: float
    downscale_seconds: float
    max_texts: int
    queue_tokens: int
    queue_texts: int
    queue_bytes: int
    max_answer_bytes: int
    max_characters: int
    cache_bytes: int
    stuck_seconds: float
    max_body_bytes: int
    head_seconds: float
    body_seconds: float
    drain_seconds: float


@show_names
@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Models, where they are served, and what a client may ask; None means chosen at load and reported.

    The options of the first model's encoder stand beside the others.

    `models` names further models of the same replica: `{name: {model: ..., dtype: ...}}`, with any option of an
    encoder; what is not said there is as for the first, but the recipe. A recipe's YAML file is read when the
    configuration is made: replicas elsewhere need not have it.
    """

    encoder: EncoderOptions = field(metadata=without("device_share", where="model: "))
    name: str | None = None
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8000
    route_prefix: str = "/"
    keys_file: str | None = field(default=None, metadata=PLACE)
    require_keys: bool = False
    insecure: bool = False
    replicas: str = "1"
    num_gpus: float | None = None
    num_cpus: float = 1.0
    target_tokens: int | None = None
    upscale_seconds: float = 10.0
    downscale_seconds: float = 300.0
    max_texts: int = DEFAULTS.max_texts
    queue_tokens: int = DEFAULTS.queue_tokens
    queue_texts: int = DEFAULTS.queue_texts
    queue_bytes: int = DEFAULTS.queue_bytes
    max_answer_bytes: int = DEFAULTS.max_answer_bytes
    max_characters: int = DEFAULTS.max_characters
    cache_bytes: int = DEFAULTS.cache_bytes
    stuck_seconds: float = DEFAULTS.stuck_seconds
    max_body_bytes: int = 8 << 20
    head_seconds: float = 30.0
    body_seconds: float = 30.0
    drain_seconds: float = 60.0

    def __init__(self, **options: Unpack[ServeNames]) -> None:
        fill(self, options)

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "head_seconds", "body_seconds", "drain_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("upscale_seconds", "downscale_seconds"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port: expected 1 to 65535, got {self.port}")
        if not ROUTE.fullmatch(self.route_prefix):
            raise ConfigError(
                f"route_prefix: expected / or /NAME/..., without a / at its end, got {self.route_prefix!r}"
            )
        if self.target_tokens is not None and not 1 <= self.target_tokens < self.queue_tokens:
            raise ConfigError(
                f"target_tokens: expected 1 or more, and fewer than queue_tokens ({self.queue_tokens}), "
                f"or no replica would ever be full, got {self.target_tokens}"
            )
        if self.num_cpus < 0 or (self.num_gpus or 0) < 0:
            raise ConfigError(f"num_cpus, num_gpus: expected 0 or more, got {self.num_cpus}, {self.num_gpus}")
        self.replica_range()
        self.limits()
        self.encoders()

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> ServeConfig:
        """A configuration from YAML, `serve run` arguments (all strings) or the command line.

        Raises ConfigError naming what is unknown, missing or of the wrong type.
        """
        check_names(cls, options)
        if "model" not in options:
            raise ConfigError("model: expected a hub id, folder, file or builtin:NAME, got none")
        if isinstance(options.get("replicas"), int):
            options = {**options, "replicas": str(options["replicas"])}
        hints = {name: hint for name, (_, hint) in list_options(cls).items()}
        return cls(**read_words(hints, _read_recipes(options)))

    @classmethod
    def from_application(cls, args: Mapping[str, Any]) -> ServeConfig:
        """The same for an application in a Serve that runs; ConfigError for what must be said to Serve instead."""
        for name in SAID_TO_SERVE:
            if name in args:
                raise ConfigError(f"{name}: expected among Serve's own options, got it among the application's")
        return cls.from_mapping(args)

    def find_changes(self) -> dict[str, Any]:
        """What was asked for: every option that is not as it is by default."""
        defaults = {name: find_default(entry) for name, (entry, _) in list_options(type(self)).items()}
        return {name: value for name, value in self.to_mapping().items() if value != defaults[name]}

    def to_mapping(self) -> dict[str, Any]:
        """Plain values that `from_mapping` reads."""
        values = list_values(self)
        recipe = values["recipe"]
        return values | {"recipe": recipe.to_mapping() if isinstance(recipe, Recipe) else recipe}

    @property
    def default_name(self) -> str:
        """The name of the first model: as asked, or the last part of where it lies."""
        return self.name or re.sub(r"[^\w.:-]", "-", self.encoder.source.model.rstrip("/").rpartition("/")[2])

    def encoders(self) -> dict[str, EncoderOptions]:
        """Options of every model by name, the default first."""
        # Ray lets a replica's libraries use one thread, however many CPUs it was given.
        threads = self.encoder.num_threads or max(1, int(self.num_cpus))
        share = min(1.0, self.num_gpus or 1.0) / (1 + len(self.models))
        first = replace(self.encoder, num_threads=threads, device_share=share)
        shared = {name: value for name, value in list_values(first).items() if name in SHARED_NAMES}
        found = {self.default_name: first}
        for name, options in self.models.items():
            if name in found:
                raise ConfigError(f"models.{name}: expected another name than that of the first model")
            found[name] = _make_further(name, shared | dict(options))
        return found

    def limits(self, max_length: int | None = None) -> ServiceLimits:
        """What one model takes; a model of its own `max_length` takes no longer text."""
        values = {name: getattr(self, name) for name in LIMIT_NAMES}
        return ServiceLimits(**values, max_length=max_length or self.encoder.length)

    def replica_range(self) -> tuple[int, int]:
        """(fewest, most) replicas."""
        low, _, high = self.replicas.partition(":")
        bounds = (int(low), int(high or low)) if low.isdecimal() and (high or low).isdecimal() else (0, 0)
        if not 1 <= bounds[0] <= bounds[1]:
            raise ConfigError(f"replicas: expected N or MIN:MAX with 1 <= MIN <= MAX, got {self.replicas!r}")
        return bounds


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host of that name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(config: ServeConfig, has_keys: bool) -> None:
    """ConfigError where others than this machine could call, and nothing asks who they are."""
    if config.require_keys and not has_keys:
        raise ConfigError("require_keys: expected keys_file, or keys in T5ENC_API_KEYS, got neither")
    if not is_loopback(config.host) and not has_keys and not config.insecure:
        raise ConfigError(
            f"host: expected a loopback address, or keys (--keys-file, T5ENC_API_KEYS), got {config.host} and no key; "
            "--insecure serves everyone who can reach it"
        )


def _read_recipes(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the fields of a recipe in the place of its file, of further models, too."""
    found = {**options}
    if isinstance(recipe := found.get("recipe"), str) and is_recipe_file(recipe):
        found["recipe"] = open_recipe(recipe).to_mapping()
    models = found.get("models")
    if isinstance(models, Mapping):
        found["models"] = {
            name: _read_recipes(model) if isinstance(model, Mapping) else model for name, model in models.items()
        }
    return found


def _make_further(name: str, options: Mapping[str, Any]) -> EncoderOptions:
    try:
        return EncoderOptions.from_mapping(options)
    except ConfigError as error:
        raise ConfigError(f"models.{name}: {error}") from error
