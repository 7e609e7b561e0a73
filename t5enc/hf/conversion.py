"""Checkpoints keep transformers' layout: its own weight converters, told of our blocks, read and write it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming

from t5enc.checkpoint.hf_names import FUSED_BIAS, name_bias, name_block


def make_conversions(*, is_gated: bool | None = None) -> list[WeightRenaming | WeightConverter]:
    """transformers' converters for every tensor of a block and the bias tables, from the table of names.

    Dots are escaped and names whole, so that no pattern meets a key that it was not made for. Both kinds of
    feed-forward can be loaded; to save, which works backwards, one has to be chosen.
    """
    bias = WeightConverter(
        [name_bias("*").removeprefix("encoder.")],
        [_escape(FUSED_BIAS.removeprefix("encoder."))],
        operations=[MergeModulelist(dim=0)],
    )
    wanted = (True, False) if is_gated is None else (is_gated,)
    pairs = sorted({pair for kind in wanted for pair in name_block(is_gated=kind).items()})
    return [bias, *(_convert(ours, theirs) for ours, theirs in pairs)]


def _convert(ours: str, theirs: Sequence[str]) -> WeightRenaming | WeightConverter:
    sources, target = [_escape(part) for part in theirs], [_escape(ours)]
    if len(sources) == 1:
        return WeightRenaming(sources, target)
    return WeightConverter(sources, target, operations=[Concatenate(dim=0)])


def _escape(name: str) -> str:
    return name.replace(".", r"\.")
