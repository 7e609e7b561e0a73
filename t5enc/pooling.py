"""One vector a text: the mean of its rows, or what a checkpoint's own modules make of them.

M model dim, P width of a vector, N texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t5enc.errors import ConfigError, InputError


def _weigh(text: Tensor) -> Tensor:
    """The mean of rows, the later ones weighing more: 1, 2, 3, ..."""
    weights = torch.arange(1, len(text) + 1, device=text.device, dtype=text.dtype)
    return weights @ text / weights.sum()


# How (tokens, M) become (M,), by the names that sentence-transformers has for it.
METHODS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "cls": lambda text: text[0],
    "max": lambda text: text.amax(0),
    "mean": lambda text: text.mean(0),
    "mean_sqrt_len_tokens": lambda text: text.sum(0) / len(text) ** 0.5,
    "weightedmean": _weigh,
    "lasttoken": lambda text: text[-1],
}
# Another name of ours.
SECOND_NAMES = {"first": "cls"}
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Identity": nn.Identity(),
    "Tanh": torch.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "Sigmoid": torch.sigmoid,
}


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A linear layer of float32 weights (P, M) and bias (P,), and its activation.

    With `is_residual` its input is added, through `residual` (P, M) where the widths differ.
    """

    weight: Tensor
    bias: Tensor | None = None
    activation: str = "Identity"
    is_residual: bool = False
    residual: Tensor | None = None

    def __call__(self, vectors: Tensor) -> Tensor:
        """(N, M) to (N, P)."""
        device = vectors.device
        bias = None if self.bias is None else self.bias.to(device)
        made = ACTIVATIONS[self.activation](F.linear(vectors, self.weight.to(device), bias))
        if not self.is_residual:
            return made
        return made + (vectors if self.residual is None else F.linear(vectors, self.residual.to(device)))


@dataclass(frozen=True, slots=True)
class Normalize:
    """Vectors of unit length."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """(N, P) to (N, P)."""
        return F.normalize(vectors, dim=-1)


Layer = Dense | Normalize


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pooler:
    """How a text's rows become its vector: by `methods`, side by side, and through `layers`, one after the other.

    `names` are those of a checkpoint's own modules, and `obstacle` is why they cannot be applied, where they cannot.
    """

    methods: tuple[str, ...] = ("mean",)
    layers: tuple[Layer, ...] = ()
    names: tuple[str, ...] = ()
    obstacle: str | None = None

    @classmethod
    def absent(cls, names: Iterable[str]) -> Pooler:
        """That of a checkpoint whose modules have these names, but are not at hand."""
        held = ", ".join(names)
        message = f"expected pooler=t5enc.open_pooler(MODEL), for the modules of the checkpoint ({held}) are not here"
        return cls(names=tuple(names), obstacle=message)

    @property
    def is_normalized(self) -> bool:
        """Whether the checkpoint's own vectors have unit length."""
        return bool(self.layers) and isinstance(self.layers[-1], Normalize)

    def check(self) -> None:
        """ConfigError where there is an obstacle."""
        if self.obstacle is not None:
            raise ConfigError(f"pooled: {self.obstacle}")

    def find_width(self, model_dim: int) -> int:
        """P of a model that is M wide."""
        widths = [len(layer.weight) for layer in self.layers if isinstance(layer, Dense)]
        return widths[-1] if widths else len(self.methods) * model_dim

    def choose(self, method: str | None) -> Pooler:
        """The same by the method that is asked for; InputError where the checkpoint's own is another."""
        if method is None:
            return self
        asked = SECOND_NAMES.get(method, method)
        if asked not in METHODS:
            raise InputError(f"pooled: expected one of {', '.join([*METHODS, *SECOND_NAMES])}, got {method!r}")
        if not self.names:
            return Pooler(methods=(asked,))
        if self.obstacle is None and self.methods != (asked,):
            expected = " and ".join(self.methods)
            raise InputError(f"pooled: expected {expected}, as the checkpoint's modules.json has it, got {method!r}")
        return self

    def pool(self, texts: Iterable[Tensor], model_dim: int, *, normalize: bool | None = None) -> Tensor:
        """(N, P) float32 of N texts of (tokens, M); zeros for a text without any.

        `normalize` gives vectors unit length or not; None leaves it to the checkpoint. ConfigError for an obstacle.
        """
        self.check()
        rows = list(texts)
        kept = [text.float() for text in rows if len(text)]
        pooled = torch.zeros(len(rows), self.find_width(model_dim), device=rows[0].device if rows else None)
        if kept:
            vectors = torch.stack([torch.cat([METHODS[name](text) for name in self.methods]) for text in kept])
            pooled[torch.tensor([len(text) > 0 for text in rows])] = self._finish(vectors, normalize)
        return pooled

    def _finish(self, vectors: Tensor, normalize: bool | None) -> Tensor:
        layers = self.layers[:-1] if self.is_normalized else self.layers
        for layer in layers:
            vectors = layer(vectors)
        is_wanted = self.is_normalized if normalize is None else normalize
        return F.normalize(vectors, dim=-1) if is_wanted else vectors
