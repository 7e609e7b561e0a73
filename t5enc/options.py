"""What an encoder is asked for: one picklable description that the library, the batch job and the server share."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError
from t5enc.precision import resolve_dtype

AttentionName = Literal["auto", "flex", "sdpa"]
# Tokens a stream. On two cores 2048 is fastest: larger streams leave the cache between two products.
DEFAULT_BUDGETS = {"cuda": 16384}
DEFAULT_BUDGET = 2048
# CUDA's Flex kernel takes no smaller heads.
SMALLEST_FLEX_HEAD = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """Which model, where it runs, and how; None means chosen at load and reported."""

    model: str
    subfolder: str | None = None
    revision: str | None = None
    variant: str | None = None
    token: str | None = None
    local_files_only: bool = False
    tokenizer: str | None = None
    recipe: str | None = None
    max_length: int = 512
    dtype: str | None = None
    device: str | None = None
    token_budget: int | None = None
    attention: AttentionName = "auto"
    compile_cache: str | None = None
    deterministic: bool = False
    num_threads: int | None = None

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigError(f"max_length: expected at least 1, got {self.max_length}")
        if self.num_threads is not None and self.num_threads < 1:
            raise ConfigError(f"num_threads: expected at least 1, got {self.num_threads}")
        if self.attention not in ("auto", "flex", "sdpa"):
            raise ConfigError(f"attention: expected auto, flex or sdpa, got {self.attention!r}")
        if self.recipe is not None:
            raise ConfigError(f"recipe: expected none (this version has no recipes), got {self.recipe!r}")
        if self.token_budget is not None and self.token_budget < max(16, self.max_length):
            raise ConfigError(
                f"token_budget: expected at least 16 and max_length ({self.max_length}), got {self.token_budget}"
            )

    @classmethod
    def from_mapping(cls, options: dict[str, Any]) -> EncoderOptions:
        """Options by name; an unknown name is refused along with those that exist."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ConfigError(f"{unknown[0]}: no such option; expected one of {', '.join(known)}")
        return cls(**options)

    def resolve(self, config: EncoderConfig) -> EncoderOptions:
        """The same with nothing left open on this machine."""
        device = resolve_device(self.device)
        budget = self.token_budget or max(DEFAULT_BUDGETS.get(device.type, DEFAULT_BUDGET), self.max_length)
        return replace(
            self,
            device=str(device),
            dtype=str(resolve_dtype(self.dtype, device)).removeprefix("torch."),
            token_budget=budget,
            attention=self._resolve_attention(device, config),
        )

    def _resolve_attention(self, device: torch.device, config: EncoderConfig) -> AttentionName:
        if self.deterministic and self.attention == "flex":
            raise ConfigError("deterministic: expected attention auto or sdpa, got flex")
        if self.attention == "auto":
            return "sdpa" if self.deterministic or not _suits_flex(device, config) else "flex"
        if self.attention == "flex":
            _check_flex(device, config)
        return self.attention


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


def _suits_flex(device: torch.device, config: EncoderConfig) -> bool:
    """Flex wins on CUDA with Triton; on CPUs SDPA is faster and needs no compiler."""
    has_triton = importlib.util.find_spec("triton") is not None
    return device.type == "cuda" and has_triton and config.head_dim >= SMALLEST_FLEX_HEAD


def _check_flex(device: torch.device, config: EncoderConfig) -> None:
    if device.type != "cpu":
        if config.head_dim < SMALLEST_FLEX_HEAD:
            raise ConfigError(
                f"attention: flex on {device.type} needs heads of at least {SMALLEST_FLEX_HEAD}, "
                f"and the model's have d_kv {config.head_dim}"
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError("attention: flex needs a C++ compiler (g++ or clang++), and none was found") from error
