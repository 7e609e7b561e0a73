"""What an encoder is: one frozen description for every T5 family, read from a Hugging Face config."""

from __future__ import annotations

import math
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

# Second names that transformers reads the same fields from.
ALIASES = {
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d_kv": "head_dim",
}

# Fields that change the arithmetic, and the only value that is modelled: attention that looks ahead, to every
# distance, with every head; one feed-forward a layer; weights that are what they say.
FIXED_FIELDS: dict[str, Any] = {
    "is_decoder": False,
    "encoder_attention_type": None,
    "pruned_heads": {},
    "num_experts": None,
    "quantization_config": None,
}


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
    # T5 is trained without the usual 1/sqrt(head dim); a model trained from scratch may have it.
    scale_logits: bool = False

    def __post_init__(self) -> None:
        _check_family(self.family)
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
        if not 0 <= self.norm_eps < math.inf:
            raise ConfigError(f"layer_norm_epsilon: expected a number from 0 on, got {self.norm_eps}")

    @property
    def inner_dim(self) -> int:
        """Width of all heads together; not always the model's width."""
        return self.num_heads * self.head_dim

    @property
    def logit_scale(self) -> float:
        """Factor of the products of queries and keys."""
        return self.head_dim**-0.5 if self.scale_logits else 1.0

    @property
    def num_biases(self) -> int:
        """Tables of relative position bias: one for all layers, or one a layer (UMT5)."""
        return self.num_layers if self.bias_per_layer else 1

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> EncoderConfig:
        """Read a Hugging Face `config.json`; a field that would be modelled wrongly is refused by name."""
        family = str(config.get("model_type", "missing"))
        _check_family(family)
        _check_fixed_fields(config)
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
            norm_eps=_number(config, "layer_norm_epsilon", 1e-6),
            scale_logits=config.get("scale_logits") is True,
        )

    def to_hf(self) -> dict[str, Any]:
        """The Hugging Face `config.json` of an encoder that came without one."""
        names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
        activation = names[self.activation]
        gated = "gated-gelu" if self.activation == "gelu_tanh" else f"gated-{activation}"
        described = {
            "model_type": self.family,
            "architectures": [f"{self.family.upper()}EncoderModel"],
            "vocab_size": self.vocab_size,
            "d_model": self.model_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "d_kv": self.head_dim,
            "d_ff": self.ff_dim,
            "feed_forward_proj": gated if self.is_gated else activation,
            "relative_attention_num_buckets": self.num_buckets,
            "relative_attention_max_distance": self.max_distance,
            "layer_norm_epsilon": self.norm_eps,
            "tie_word_embeddings": False,
            "pad_token_id": 0,
            "eos_token_id": 1,
        }
        return described | ({"scale_logits": True} if self.scale_logits else {})


def _check_family(family: str) -> None:
    if family not in FAMILIES:
        raise ConfigError(f"model_type: expected one of {', '.join(FAMILIES)}, got {family!r}")


def _check_fixed_fields(config: Mapping[str, Any]) -> None:
    for name, expected in FIXED_FIELDS.items():
        if config.get(name) not in (None, expected):
            raise ConfigError(f"{name}: expected {expected!r}, the only value modelled, got {config[name]!r}")


def _integer(config: Mapping[str, Any], name: str, default: int | None) -> int:
    """A positive integer under its name or its alias, which may both be there if they agree."""
    found = {key: config[key] for key in (name, ALIASES.get(name, name)) if key in config} or {name: default}
    for key, value in found.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{key}: expected a positive integer, got {value!r}")
    if len(set(found.values())) > 1:
        raise ConfigError(f"{' and '.join(found)}: expected one value, got {' and '.join(map(str, found.values()))}")
    return int(found.popitem()[1])


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"{name}: expected a number, got {value!r}")
    return float(value)


def _read_activation(config: Mapping[str, Any]) -> tuple[Activation, bool]:
    """From `feed_forward_proj`; what transformers derives from it may stand beside it, and must not differ.

    (transformers itself would follow the derived fields, other readers would not.)
    """
    default = "relu" if config.get("model_type") == "t5" else "gated-gelu"
    projection = str(config.get("feed_forward_proj", default))
    is_gated = projection.startswith("gated-")
    name = "gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-")
    if name not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise ConfigError(f"feed_forward_proj: expected NAME or gated-NAME of {names}, got {projection!r}")
    if ACTIVATIONS.get(str(config.get("dense_act_fn", name))) != ACTIVATIONS[name]:
        raise ConfigError(f"dense_act_fn: expected {name}, as feed_forward_proj has it, got {config['dense_act_fn']!r}")
    if config.get("is_gated_act", is_gated) is not is_gated:
        raise ConfigError(
            f"is_gated_act: expected {is_gated}, as feed_forward_proj has it, got {config['is_gated_act']!r}"
        )
    return ACTIVATIONS[name], is_gated
