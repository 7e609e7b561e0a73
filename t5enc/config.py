"""What an encoder is: one frozen description for every T5 family, read from a Hugging Face config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from t5enc.errors import ConfigError

Activation = Literal["relu", "gelu_tanh", "gelu", "silu"]

# Hugging Face's names of activations -> ours. "gated-gelu" means the tanh form there: T5Config maps it to
# gelu_new, while a plain "gelu" is the exact error-function form.
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "silu": "silu",
    "swish": "silu",
}

FAMILIES = ("t5", "mt5", "umt5")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Shape and arithmetic of an encoder; families differ by these fields only."""

    family: str
    vocab_size: int
    model_dim: int
    num_layers: int
    num_heads: int
    head_dim: int
    ff_dim: int
    activation: Activation
    is_gated: bool
    num_buckets: int = 32
    max_distance: int = 128
    bias_per_layer: bool = False
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"model_type: expected one of {', '.join(FAMILIES)}, got {self.family!r}")
        for name in ("vocab_size", "model_dim", "num_layers", "num_heads", "head_dim", "ff_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected a positive integer, got {getattr(self, name)!r}")
        if self.num_buckets < 4 or self.num_buckets % 2:
            raise ConfigError(
                f"relative_attention_num_buckets: expected an even number of at least 4, got {self.num_buckets}"
            )
        if self.max_distance <= self.num_buckets // 4:
            raise ConfigError(
                f"relative_attention_max_distance: expected more than a quarter of the "
                f"{self.num_buckets} buckets, got {self.max_distance}"
            )

    @property
    def inner_dim(self) -> int:
        """Width of all heads together; not always the model's width."""
        return self.num_heads * self.head_dim

    @property
    def num_biases(self) -> int:
        """Tables of relative position bias: one for all layers, or one a layer (UMT5)."""
        return self.num_layers if self.bias_per_layer else 1

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> EncoderConfig:
        """Read a Hugging Face `config.json`; a field that would be modelled wrongly is refused by name."""
        family = str(config.get("model_type", "missing"))
        activation, is_gated = _read_activation(config)
        return cls(
            family=family,
            vocab_size=_integer(config, "vocab_size", {"t5": 32128, "mt5": 250112, "umt5": 250112}.get(family)),
            model_dim=_integer(config, "d_model", 512),
            num_layers=_integer(config, "num_layers", 6 if family == "t5" else 8),
            num_heads=_integer(config, "num_heads", 8 if family == "t5" else 6),
            head_dim=_integer(config, "d_kv", 64),
            ff_dim=_integer(config, "d_ff", 2048 if family == "t5" else 1024),
            activation=activation,
            is_gated=is_gated,
            num_buckets=_integer(config, "relative_attention_num_buckets", 32),
            max_distance=_integer(config, "relative_attention_max_distance", 128),
            bias_per_layer=family == "umt5",
            norm_eps=float(config.get("layer_norm_epsilon", 1e-6)),
        )


def _integer(config: Mapping[str, Any], name: str, default: int | None) -> int:
    value = config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name}: expected an integer, got {value!r}")
    return value


def _read_activation(config: Mapping[str, Any]) -> tuple[Activation, bool]:
    """`feed_forward_proj` is what T5Config derives the rest from; it wins over `dense_act_fn`."""
    default = "relu" if config.get("model_type") == "t5" else "gated-gelu"
    projection = str(config.get("feed_forward_proj", default))
    gate, _, name = projection.rpartition("-")
    if gate not in ("", "gated"):
        raise ConfigError(f"feed_forward_proj: expected NAME or gated-NAME, got {projection!r}")
    if projection == "gated-gelu":
        name = "gelu_new"
    if name not in ACTIVATIONS:
        raise ConfigError(f"feed_forward_proj: expected one of {', '.join(ACTIVATIONS)}, got {projection!r}")
    return ACTIVATIONS[name], gate == "gated"
