"""What an encoder is asked for: one picklable description that the library, the batch job and the server share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, Unpack

import torch

from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError, ConfigError
from t5enc.fields.parts import PLACE, check_names, fill, settle_fields, show_names
from t5enc.model.attention.flex_support import find_flex_obstacle, find_missing_compiler, suits_flex
from t5enc.model.memory import choose_budget, find_free_bytes
from t5enc.model.precision import resolve_dtype
from t5enc.recipes.opening import open_recipe
from t5enc.recipes.overrides import override
from t5enc.recipes.recipe import Recipe

AttentionName = Literal["auto", "flex", "sdpa"]
DEFAULT_LENGTH = 512
# The name that stands for none, where a diffusers repository would tell one.
NO_RECIPE = "none"
# Tokens a stream. On two cores 2048 is fastest: larger streams leave the cache between two products.
DEFAULT_BUDGETS = {"cuda": 16384}
DEFAULT_BUDGET = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model is: a hub id, folder, single file or `builtin:NAME`, which part and state of it, and how to ask.

    The token is never shown; True stands for the one that is stored on this machine. `lora` names adapters of PEFT's
    that are added to the weights: PATH or PATH:SCALE, several between commas.
    """

    model: str = field(metadata=PLACE)
    subfolder: str | None = None
    revision: str | None = None
    variant: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False
    lora: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", _name_place(self.model))
        settle_fields(self)

    @classmethod
    def of(cls, model: ModelPlace) -> ModelSource:
        """A place that may be a mere name; CheckpointError for a path object that leads to nothing."""
        return model if isinstance(model, ModelSource) else cls(model=_name_place(model))


# A model's name where nothing else needs to be said.
ModelPlace = str | os.PathLike[str] | ModelSource


class PlaceNames(TypedDict, total=False):
    """What may be said of where a model is, beside its name."""

    subfolder: str | None
    revision: str | None
    variant: str | None
    token: str | bool | None
    local_files_only: bool | None
    lora: str | None


class SharedNames(PlaceNames, total=False):
    """What an encoder may be asked for in the library, the batch job and the server alike."""

    tokenizer: str | bytes | os.PathLike[str] | None
    recipe: str | Recipe | Mapping[str, Any] | None
    recipe_options: Mapping[str, Any]
    max_length: int | None
    dtype: str | torch.dtype | None
    device: str | torch.device | None
    token_budget: int | None
    attention: AttentionName
    compile_cache: str | os.PathLike[str] | None
    deterministic: bool | None


class LoadNames(SharedNames, total=False):
    """What `TextEncoder.from_pretrained` may be asked for, beside a model."""

    num_threads: int | None
    device_share: float


class EncoderNames(LoadNames, total=False):
    """What EncoderOptions are made of: a model, or the whole `source`, and the rest."""

    model: str | os.PathLike[str]
    source: ModelSource


@show_names
@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """Which model, where it runs, and how; None means chosen at load and reported.

    The fields of `source` are given by their own names, beside the others. A recipe may be given as its fields; one
    that is None may be inferred from the repository of the model; "none" stays none. `device_share` is how much of its
    device's memory the encoder may count on.
    """

    source: ModelSource
    tokenizer: str | bytes | None = field(default=None, metadata=PLACE)
    recipe: str | Recipe | None = field(default=None, metadata=PLACE)
    recipe_options: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None
    dtype: str | None = None
    device: str | None = None
    token_budget: int | None = None
    attention: AttentionName = "auto"
    compile_cache: str | None = field(default=None, metadata=PLACE)
    deterministic: bool = False
    num_threads: int | None = None
    device_share: float = 1.0

    def __init__(self, **options: Unpack[EncoderNames]) -> None:
        fill(self, {name: READERS[name](value) if name in READERS else value for name, value in options.items()})

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(f"max_length: expected at least 1, got {self.max_length}")
        if self.num_threads is not None and self.num_threads < 1:
            raise ConfigError(f"num_threads: expected at least 1, got {self.num_threads}")
        if not 0 < self.device_share <= 1:
            raise ConfigError(f"device_share: expected more than 0 and at most 1, got {self.device_share}")
        if self.recipe_options and self.recipe == NO_RECIPE:
            raise ConfigError(f"recipe_options: expected a recipe with them, got {dict(self.recipe_options)} and none")
        if self.find_recipe() is None or self.max_length is not None:
            self._check_budget(self.length)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> EncoderOptions:
        """Options by name; an unknown name is refused along with those that exist."""
        check_names(cls, options)
        return cls(**options)

    @property
    def length(self) -> int:
        """Longest text in tokens where no recipe says otherwise."""
        return self.max_length or DEFAULT_LENGTH

    @property
    def tokenizer_source(self) -> ModelSource | bytes | None:
        """Where the tokenizer is, if not with the model: asked for as the model is, or a sentencepiece model itself."""
        if self.tokenizer is None or isinstance(self.tokenizer, bytes):
            return self.tokenizer
        given = self.source
        return ModelSource(model=self.tokenizer, token=given.token, local_files_only=given.local_files_only)

    def find_recipe(self) -> Recipe | None:
        """The recipe with its options; `max_length`, where it is given, must be one that the pipeline's call takes."""
        if self.recipe is None or self.recipe == NO_RECIPE:
            return None
        options = dict(self.recipe_options)
        recipe = open_recipe(self.recipe)
        if self.max_length is None or self.max_length == recipe.max_length:
            return override(recipe, options)
        if recipe.max_length == 0:
            return override(replace(recipe, max_length=self.max_length), options)
        if "max_sequence_length" not in recipe.options:
            raise ConfigError(
                f"max_length: expected {recipe.max_length}, the only length of {recipe.name}, got {self.max_length}"
            )
        return override(recipe, {"max_sequence_length": self.max_length} | options)

    def resolve(self, config: EncoderConfig, *, max_length: int | None = None) -> EncoderOptions:
        """The same with nothing left open on this machine; `max_length` is what the recipe or tokenizer makes it."""
        device = resolve_device(self.device)
        length = max_length or self.length
        self._check_budget(length)
        dtype = resolve_dtype(self.dtype, device)
        attention = self._resolve_attention(device, config)
        budget = self.token_budget or max(DEFAULT_BUDGETS.get(device.type, DEFAULT_BUDGET), length)
        if self.token_budget is None and device.type == "cuda":
            free = find_free_bytes(device, self.device_share)
            budget = choose_budget(config, dtype, attention, free=free, length=length, most=budget)
        return replace(
            self,
            max_length=length,
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            token_budget=budget,
            attention=attention,
        )

    def _check_budget(self, length: int) -> None:
        if self.token_budget is not None and self.token_budget < max(16, length):
            raise ConfigError(f"token_budget: expected at least 16 and max_length ({length}), got {self.token_budget}")

    def _resolve_attention(self, device: torch.device, config: EncoderConfig) -> AttentionName:
        if self.deterministic and self.attention == "flex":
            raise ConfigError("deterministic: expected attention auto or sdpa, got flex")
        if self.attention == "auto":
            return "sdpa" if self.deterministic or not suits_flex(config, device) else "flex"
        if self.attention == "flex" and (
            obstacle := find_flex_obstacle(config, device) or find_missing_compiler(device)
        ):
            raise ConfigError(f"attention: {obstacle}")
        return self.attention


def _name_place(place: Any) -> Any:
    """A place by its name; CheckpointError for a path object that leads to nothing: it is never taken for a hub id."""
    name = expand_home(place)
    if isinstance(place, os.PathLike) and not os.path.exists(name):
        raise CheckpointError(f"{place}: expected a folder, a .safetensors file or a hub id, got no such path")
    return name


def expand_home(path: Any) -> Any:
    """A path with its home folder; what is no path is left to be refused."""
    return os.path.expanduser(os.fspath(path)) if isinstance(path, str | os.PathLike) else path


def _name_torch(value: Any) -> Any:
    """PyTorch's own dtypes and devices by name."""
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype | torch.device) else value


def _make_recipe(value: Any) -> Any:
    """A recipe for its fields."""
    return Recipe.from_mapping(value) if isinstance(value, Mapping) else value


# How values that callers have are written down.
READERS: dict[str, Callable[[Any], Any]] = {
    "tokenizer": _name_place,
    "compile_cache": expand_home,
    "recipe": _make_recipe,
    "dtype": _name_torch,
    "device": _name_torch,
}


def resolve_device(device: str | None) -> torch.device:
    """The device asked for, or CUDA where there is one, else the CPU; ConfigError where it is not there."""
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device: expected auto, cpu or cuda[:N], got {device!r}") from error
    if resolved.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: expected auto, cpu or cuda[:N], got {device!r}")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: expected a CUDA device that PyTorch can use, got {device!r} and none is there")
    return resolved
