"""What a service is asked for: read once at the edge, refused by name where it cannot be honoured."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from serve_app.served.service import ServiceLimits
from t5enc.errors import ConfigError
from t5enc.options import DEFAULT_LENGTH, EncoderOptions
from t5enc.recipes.opening import is_recipe_file, open_recipe
from t5enc.recipes.recipe import Recipe

# The name of our deployment in Serve, and what of our options it must be told itself: an application cannot say it.
DEPLOYMENT = "t5enc"
SAID_TO_SERVE = ("host", "port", "route_prefix")
# Requests that a replica takes in at once. Far above what fills a batch: one request may be a single short text.
MAX_ONGOING_REQUESTS = 4096
ROUTE = re.compile(r"/|(/[\w.~-]+)+")
ENCODER_NAMES = tuple(entry.name for entry in fields(EncoderOptions) if entry.name != "device_share")
# What further models have as the first does, where they do not say it.
SHARED_NAMES = ("max_length", "token_budget", "dtype", "device", "device_share", "local_files_only", "compile_cache")
LIMIT_NAMES = tuple(entry.name for entry in fields(ServiceLimits))
DEFAULTS = ServiceLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Models, where they are served, and what a client may ask; None means chosen at load and reported.

    `models` names further models of the same replica: `{name: {model: ..., dtype: ...}}`, with any option of an
    encoder; what is not said there is as for the first, but the recipe. A recipe's YAML file is read when the
    configuration is made: replicas elsewhere need not have it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    name: str | None = None
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8000
    route_prefix: str = "/"
    keys_file: str | None = None
    require_keys: bool = False
    insecure: bool = False
    replicas: str = "1"
    num_gpus: float | None = None
    num_cpus: float = 1.0
    target_tokens: int | None = None
    upscale_seconds: float = 10.0
    downscale_seconds: float = 300.0
    subfolder: str | None = None
    revision: str | None = None
    variant: str | None = None
    token: str | None = field(default=None, repr=False)
    local_files_only: bool = False
    tokenizer: str | None = None
    recipe: str | Mapping[str, Any] | None = None
    recipe_options: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None
    token_budget: int | None = None
    dtype: str | None = None
    device: str | None = None
    attention: str = "auto"
    compile_cache: str | None = None
    deterministic: bool = False
    num_threads: int | None = None
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
        known = [entry.name for entry in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"{name}: no such option; expected one of {', '.join(known)}")
        if "model" not in options:
            raise ConfigError("model: expected a hub id, folder, file or builtin:NAME, got none")
        if isinstance(options.get("replicas"), int):
            options = {**options, "replicas": str(options["replicas"])}
        options = _read_recipes(options)
        try:
            return TypeAdapter(cls).validate_python(dict(options))
        except ValidationError as error:
            raise ConfigError(_describe(error)) from error

    @classmethod
    def from_application(cls, args: Mapping[str, Any]) -> ServeConfig:
        """The same for an application in a Serve that runs; ConfigError for what must be said to Serve instead."""
        for name in SAID_TO_SERVE:
            if name in args:
                raise ConfigError(f"{name}: expected among Serve's own options, got it among the application's")
        return cls.from_mapping(args)

    def find_changes(self) -> dict[str, Any]:
        """What was asked for: every option that is not as it is by default."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        defaults = {entry.name: _find_default(entry) for entry in fields(self)}
        return {name: value for name, value in values.items() if value != defaults[name]}

    def to_mapping(self) -> dict[str, Any]:
        """Plain values that `from_mapping` reads."""
        return asdict(self)

    @property
    def default_name(self) -> str:
        """The name of the first model: as asked, or the last part of where it lies."""
        return self.name or re.sub(r"[^\w.:-]", "-", self.model.rstrip("/").rpartition("/")[2])

    def encoders(self) -> dict[str, EncoderOptions]:
        """Options of every model by name, the default first."""
        first = {name: getattr(self, name) for name in ENCODER_NAMES}
        # Ray lets a replica's libraries use one thread, however many CPUs it was given.
        first["num_threads"] = self.num_threads or max(1, int(self.num_cpus))
        first["device_share"] = min(1.0, self.num_gpus or 1.0) / (1 + len(self.models))
        found = {self.default_name: _encoder("model", first)}
        for name, options in self.models.items():
            if name in found:
                raise ConfigError(f"models.{name}: expected another name than that of the first model")
            shared = {key: first[key] for key in SHARED_NAMES}
            found[name] = _encoder(f"models.{name}", shared | dict(options))
        return found

    def limits(self, max_length: int | None = None) -> ServiceLimits:
        """What one model takes; a model of its own `max_length` takes no longer text."""
        values = {name: getattr(self, name) for name in LIMIT_NAMES}
        return ServiceLimits(**(values | {"max_length": max_length or self.max_length or DEFAULT_LENGTH}))

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


def _find_default(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


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


def _encoder(where: str, options: dict[str, Any]) -> EncoderOptions:
    try:
        if isinstance(options.get("recipe"), Mapping):
            options = {**options, "recipe": Recipe.from_mapping(options["recipe"])}
        return EncoderOptions.from_mapping(options)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    if isinstance(own := first.get("ctx", {}).get("error"), ConfigError):
        return str(own)
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"
