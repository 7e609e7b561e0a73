"""Checkpoints keep transformers' layout: its own weight converters, told of our blocks, read and write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import (
    Concatenate,
    ConversionOps,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
)

from t5enc.checkpoint.hf_names import FUSED_BIAS, name_bias, name_block

UP = "feed_forward.up.weight"
# The way up with a gate and without, which one converter has to be for: a model has one of them.
UP_SOURCE = r"layer\.1\.DenseReluDense\.wi\w*\.weight"


class FuseUp(Concatenate):  # type: ignore[misc]
    """The gate above the rest, or the one matrix of a feed-forward without a gate."""

    @property
    def reverse_op(self) -> ConversionOps:
        """Back into as many as the model's feed-forward has."""
        return SplitUp()


class SplitUp(ConversionOps):  # type: ignore[misc]
    """A way up as transformers' tensors, of which a gated feed-forward has two."""

    @torch.no_grad()
    def convert(
        self,
        input_dict: Mapping[str, Any],
        source_patterns: Sequence[str],
        target_patterns: Sequence[str],
        *,
        full_layer_name: str,
        model: torch.nn.Module,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Under their whole names; the model's own block says whether it is gated."""
        (tensors,) = input_dict.values()
        tensor = tensors[0] if isinstance(tensors, list) else tensors
        block = full_layer_name.partition(target_patterns[0])[0]
        pieces: Any = model.get_submodule(f"{block}feed_forward").pieces
        names = [block + part for part in name_block(is_gated=pieces == 2)[UP]]
        return {name: piece.contiguous() for name, piece in zip(names, tensor.chunk(len(names)), strict=True)}

    @property
    def reverse_op(self) -> ConversionOps:
        """What made one of them."""
        return FuseUp()


def make_conversions() -> list[WeightRenaming | WeightConverter]:
    """transformers' converters for every tensor of a block and the bias tables, from the table of names.

    Dots are escaped and names whole, so that no pattern meets a key that it was not made for.
    """
    bias = WeightConverter(
        [name_bias("*").removeprefix("encoder.")],
        [_escape(FUSED_BIAS.removeprefix("encoder."))],
        operations=[MergeModulelist(dim=0)],
    )
    up = WeightConverter([UP_SOURCE], [_escape(UP)], operations=[FuseUp(dim=0)])
    rest = sorted((ours, theirs) for ours, theirs in name_block(is_gated=True).items() if ours != UP)
    return [bias, up, *(_convert(ours, theirs) for ours, theirs in rest)]


def _convert(ours: str, theirs: Sequence[str]) -> WeightRenaming | WeightConverter:
    sources, target = [_escape(part) for part in theirs], [_escape(ours)]
    if len(sources) == 1:
        return WeightRenaming(sources, target)
    return WeightConverter(sources, target, operations=[Concatenate(dim=0)])


def _escape(name: str) -> str:
    return name.replace(".", r"\.")
