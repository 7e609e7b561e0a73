"""The modules of a stack, and how their weights get there: in states of either layout, or one by one.

An empty model (of accelerate's `init_empty_weights`) keeps transformers' own blocks until all of their weights are
there. Loaders that set parameters by name then find each of them: accelerate's, or diffusers' of single files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn

from t5enc.checkpoint.hf_names import BIAS, FUSED_BIAS, name_parts
from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError
from t5enc.hf.block import LINEARS, Block, expect_splittable, is_free, join_block, split_block
from t5enc.hf.state_names import Parts, fuse_names, split_names, unfuse_names
from t5enc.model.encoder import make_modules
from t5enc.model.linear import Linear

# What the names of a stack begin with in its model.
WITHIN = "encoder."
NOT_LOADED = "expected a weight, got none: whatever filled this empty model has not set it; from_pretrained does"
HOOKED = "expected weights in one place, got accelerate's hooks; use from_pretrained with a device_map instead"


class StackModules(nn.Module):
    """An Encoder's modules, three of them under transformers' names, which its state dict and its users know."""

    # Whether transformers' layers are in the place of its own, for adapters made for those.
    is_split = False

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.shape = EncoderConfig.from_hf(config.to_dict())
        modules = make_modules(self.shape, config.dropout_rate, Block)
        self.embed_tokens, self.relative_bias, self.block, self.final_layer_norm = modules
        self.awaits_weights = False
        self.register_load_state_dict_post_hook(_fuse_when_loaded)  # type: ignore[no-untyped-call]

    def list_parts(self) -> Parts:
        """Each fused parameter -> transformers' tensors that lie in it one above the other, seen from here."""
        parts = name_parts(self.shape).items()
        return {ours.removeprefix(WITHIN): [part.removeprefix(WITHIN) for part in theirs] for ours, theirs in parts}

    def replace_linears(self, replace: Callable[[nn.Linear], nn.Module]) -> None:
        """Put `replace(layer)` in the place of every linear layer; ConfigError for one with a bias."""
        if self.awaits_weights:
            self.expect_weights()
        self.expect_joined()
        for block in self.block:
            for name in LINEARS:
                layer = block.get_submodule(name)
                replaced = replace(layer)  # type: ignore[arg-type]
                if getattr(replaced, "bias", None) is not None:
                    raise ConfigError(f"{name}: expected a layer without a bias, got {replaced}")
                block.set_submodule(name, replaced)

    def __setattr__(self, name: str, value: Any) -> None:
        """torch's eager quantization sets a `qconfig` before it looks for layers, by their exact class: they get it."""
        if name == "qconfig":
            self.replace_linears(_make_plain)
        super().__setattr__(name, value)

    def await_weights(self, blocks: nn.ModuleList) -> None:
        """Put transformers' own blocks, which hold nothing, in the place of a new stack's."""
        self.block = blocks
        del self.relative_bias
        self.awaits_weights = True

    def fuse_when_loaded(self) -> None:
        """Make the stack's own blocks of transformers' once all of their weights are there, one after the other."""
        if not self.awaits_weights or self._find_obstacle() is not None:
            return
        with torch.device("meta"):
            _, bias, blocks, _ = make_modules(self.shape, self.config.dropout_rate, Block)
        tables = [block.get_parameter(BIAS) for block in self.block[: self.shape.num_biases]]
        bias.weight = nn.Parameter(torch.stack([*tables]).detach(), requires_grad=tables[0].requires_grad)
        bias.buckets = bias.buckets.to(bias.weight.device)
        self.relative_bias = bias
        for layer, block in enumerate(blocks):
            theirs = self.block[layer]
            state = {name: tensor for name, tensor in theirs.state_dict().items() if name != BIAS}
            block.load_state_dict(state, assign=True)
            block.requires_grad_(next(theirs.parameters()).requires_grad).train(theirs.training)
            self.block[layer] = block
        self.awaits_weights = False

    def list_blocks(self) -> list[Block]:
        """Its own, of which there are none while it awaits weights."""
        return [block for block in self.block if isinstance(block, Block)]

    def split(self) -> None:
        """Put transformers' layers in the place of each block's own; ConfigError before anything is done, or none."""
        if self.is_split:
            return
        for block in self.list_blocks():
            if block.attention_norm.weight is None:
                raise ConfigError("adapters of transformers' layers: expected plain norms; call unfuse_norms() first")
            for name in LINEARS:
                expect_splittable(block, name)
        for block in self.list_blocks():
            split_block(block, block.list_linears())
        self.is_split = True

    def join_when_free(self) -> None:
        """Make the stack's own layers of transformers' again once no adapter is on any."""
        if self.is_split and all(is_free(block) for block in self.list_blocks()):
            for block in self.list_blocks():
                join_block(block, block.list_linears())
            self.is_split = False

    def expect_joined(self) -> None:
        """ConfigError where adapters are on transformers' layers."""
        self.join_when_free()
        if self.is_split:
            raise ConfigError("expected a model without adapters on transformers' layers; merge or unload them first")

    def expect_weights(self) -> None:
        """ConfigError where weights that are about to be used are not there."""
        self.fuse_when_loaded()
        problem = self._find_obstacle() if self.awaits_weights else self._find_unloaded()
        if problem is not None:
            raise ConfigError(problem)

    def _find_obstacle(self) -> str | None:
        for name, module in self.block.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.is_meta:
                    return f"encoder.block.{name}.{key}: {NOT_LOADED}"
            if hasattr(module, "_hf_hook"):
                return f"encoder.block.{name}: {HOOKED}"
        return None

    def _find_unloaded(self) -> str | None:
        """Of what every loader has to set, and no hook brings when its turn comes."""
        for name, module in (("embed_tokens", self.embed_tokens), ("relative_bias", self.relative_bias)):
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.is_meta and not _has_hooks(module):
                return f"encoder.{name}.weight: {NOT_LOADED}"
        return None

    def train(self, mode: bool = True) -> Self:
        """As every module has it; one of the calls after which an empty model may be whole."""
        super().train(mode)
        self.fuse_when_loaded()
        self.join_when_free()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.fuse_when_loaded()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Of a state in transformers' names or these: the bias tables', blocks see to their own."""
        parts = self.list_parts()
        if self.awaits_weights:
            unfuse_names(state_dict, prefix)
            split_names(parts, state_dict, prefix)
        else:
            bias = FUSED_BIAS.removeprefix(WITHIN)
            _, _, missing, _, errors = rest
            fuse_names(self, {bias: parts[bias]}, state_dict, prefix, missing, errors)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks) or "forward" in module.__dict__


def _fuse_when_loaded(stack: StackModules, _: object) -> None:
    stack.fuse_when_loaded()


def _make_plain(layer: nn.Linear) -> nn.Linear:
    """The same weight in a layer of torch's very own class; others as they are."""
    if type(layer) is not Linear:
        return layer
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = layer.weight
    return plain.train(layer.training)
