"""The engine's block as transformers' layers are: it can be computed anew in backward, and takes their names.

Its layers can be split into transformers' own, for as long as adapters made for those are on them. It computes as
before: a product of several pieces is put together of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from t5enc.checkpoint.hf_names import name_block
from t5enc.errors import ConfigError
from t5enc.hf.state_names import Parts, fuse_names, split_names, unfuse_names
from t5enc.model import layers
from t5enc.model.linear import Linear
from t5enc.model.norm_fusion import FUSIONS

LINEARS = ("attention.qkv", "attention.output", "feed_forward.up", "feed_forward.down")
WEIGHT = ".weight"
# Beside its norms, which keep their names, all that is transformers' in a block that is split.
LAYERS = "layer"
ONE_SET = "expected the model's own layer to split into transformers', got {}; adapters have one set of names at a time"
OFFLOADED = "expected a weight in memory to split into transformers', got an offloaded one; remove the hooks"


class Block(GradientCheckpointingLayer, layers.Block):  # type: ignore[misc]
    """A block whose activations are not kept in training, where gradient checkpointing is enabled."""

    def list_parts(self) -> Parts:
        """Each parameter -> transformers' tensors that lie in it one above the other."""
        return name_block(is_gated=self.feed_forward.pieces == 2)

    def list_linears(self) -> dict[str, list[str]]:
        """Each linear layer -> transformers' layers that lie in it."""
        parts = {name.removesuffix(WEIGHT): theirs for name, theirs in self.list_parts().items()}
        return {name: [part.removesuffix(WEIGHT) for part in parts[name]] for name in LINEARS}

    @property
    def is_split(self) -> bool:
        """Whether transformers' layers are in the place of its own."""
        return LAYERS in self._modules

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Of a state in transformers' names or these, with norms fused or, where this block's are not, without."""
        parts = self.list_parts()
        if self.attention_norm.weight is not None:
            unfuse_names(state_dict, prefix)
        elif any(
            prefix + name in state_dict for norm in FUSIONS for name in (f"{norm}.weight", *parts[f"{norm}.weight"])
        ):
            raise ConfigError("load_state_dict: expected a state of fused norms; call unfuse_norms() first")
        if self.is_split:
            linears = {f"{name}{WEIGHT}" for name in LINEARS}
            split_names({name: parts[name] for name in linears}, state_dict, prefix)
            parts = {name: theirs for name, theirs in parts.items() if name not in linears}
        _, _, missing, _, errors = rest
        fuse_names(self, parts, state_dict, prefix, missing, errors)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Joined(nn.Module):
    """Stands where a fused layer stood: the products of its pieces, wherever these are and whatever wraps them now."""

    def __init__(self, owner: nn.Module, names: Sequence[str], fused: Linear) -> None:
        super().__init__()
        self.__dict__["owner"] = owner  # no module of this one: its names are those of transformers alone
        self.names = tuple(names)
        self.pieces, self.gains = fused.pieces, fused.gains

    def forward(self, inputs: Tensor) -> Tensor:
        """(T, I) -> (T, O), one piece after the other."""
        products = [layer(inputs) for layer in self.list_layers()]
        return products[0] if len(products) == 1 else torch.cat(products, dim=-1)

    def list_layers(self) -> list[nn.Module]:
        """The pieces as they are now."""
        return [getattr(self.owner, name) for name in self.names]


def expect_splittable(block: nn.Module, fused: str) -> None:
    """ConfigError for a layer that something else stands for, or whose weight is not there."""
    layer = block.get_submodule(fused)
    if type(layer) is not Linear:
        raise ConfigError(f"{fused}: " + ONE_SET.format(f"{type(layer).__module__}.{type(layer).__name__}"))
    if layer.weight.is_meta and ("forward" in layer.__dict__ or layer._forward_pre_hooks):
        raise ConfigError(f"{fused}: {OFFLOADED}")


@torch.no_grad()
def split_block(block: nn.Module, parts: Mapping[str, Sequence[str]]) -> None:
    """Put transformers' layers beside a block's own, which become what joins them."""
    block.add_module(LAYERS, nn.ModuleList(nn.Module() for _ in range(2)))
    for fused, theirs in parts.items():
        layer = block.get_submodule(fused)
        assert isinstance(layer, Linear)
        for name, weight in zip(theirs, layer.weight.chunk(len(theirs)), strict=True):
            piece = _make(weight.clone(), layer.weight.requires_grad)
            _find_owner(block, name).add_module(name.rpartition(".")[2], piece.train(layer.training))
        names = [name.rpartition(".")[2] for name in theirs]
        joined = Joined(_find_owner(block, theirs[0]), names, layer)
        block.set_submodule(fused, joined.train(layer.training))


@torch.no_grad()
def join_block(block: nn.Module, parts: Mapping[str, Sequence[str]]) -> None:
    """The reverse."""
    for fused in parts:
        joined = block.get_submodule(fused)
        assert isinstance(joined, Joined)
        weights = [layer.weight for layer in joined.list_layers()]
        weight = torch.cat([*weights]) if len(weights) > 1 else weights[0]  # type: ignore[list-item]
        layer = _make(weight, any(bool(one.requires_grad) for one in weights))  # type: ignore[arg-type]
        layer.pieces, layer.gains = joined.pieces, joined.gains
        block.set_submodule(fused, layer.train(joined.training))
    delattr(block, LAYERS)


def is_free(block: nn.Module) -> bool:
    """Whether a split block's layers are as they were made: no adapter on any."""
    joined = (module for module in block.modules() if isinstance(module, Joined))
    return all(type(layer) is Linear for one in joined for layer in one.list_layers())


def list_names(parts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """transformers' names of all modules within a block, seen from it."""
    seen = set()
    for theirs in parts.values():
        for name in theirs:
            path = name.removesuffix(".weight").split(".")
            seen |= {".".join(path[:depth]) for depth in range(2, len(path) + 1)}
    yield from sorted(seen)


def _find_owner(block: nn.Module, name: str) -> nn.Module:
    """The container of a layer, made where it is not there."""
    within, _, _ = name.rpartition(".")
    above, _, own = within.rpartition(".")
    parent = block.get_submodule(above)
    if own not in parent._modules:
        parent.add_module(own, nn.Module())
    return parent.get_submodule(own)


def _make(weight: Tensor, requires_grad: bool) -> Linear:
    with torch.device("meta"):
        layer = Linear(weight.shape[1], weight.shape[0])
    # Not set as an attribute, which would be emptied where PEFT adds adapters under init_empty_weights.
    layer._parameters["weight"] = nn.Parameter(weight.detach(), requires_grad=requires_grad)
    return layer
