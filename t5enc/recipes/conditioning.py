"""Rows of captions as the tensors that a diffusion pipeline hands to its transformer.

N captions, W width of the pipeline's tensor, L the recipe's length, M model dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from t5enc.errors import InputError
from t5enc.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What embeddings were made by: a recipe whose length is known, and the rows (K, M) of its null prompt, if any."""

    recipe: Recipe
    null: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PipelineInputs:
    """What a pipeline makes of N captions: embeddings (N, W, M), their mask as the pipeline has it or None.

    The null prompt's are given once a caption; None where the family has no null prompt.
    """

    prompt_embeds: Tensor
    prompt_mask: Tensor | None
    null_embeds: Tensor | None
    null_mask: Tensor | None


def build_inputs(rows: list[Tensor], conditioning: Conditioning) -> PipelineInputs:
    """The tensors of N captions, whose kept rows (K, M) are given, in one batch.

    What pipelines compute and mask out of sight are zeros here. Families whose tensors are as wide as the batch needs
    give the width that these N captions need. InputError for none, which no pipeline takes.
    """
    if not rows:
        raise InputError("to_pipeline: expected at least one caption, got none")
    recipe = conditioning.recipe
    lengths = [len(text) for text in rows]
    width = find_width(recipe, lengths)
    embeds = _pad(rows, width, recipe)
    mask = make_mask(recipe, lengths, width, embeds)
    null = _build_null(conditioning, embeds)
    if null is None:
        return PipelineInputs(embeds, mask, None, None)
    return PipelineInputs(embeds, mask, null, _mask_null(conditioning, null, mask))


def find_width(recipe: Recipe, lengths: list[int]) -> int:
    """W of a batch of captions with so many rows each; InputError for one with more than the recipe's."""
    longest = max(lengths, default=0)
    if recipe.width == "longest" or (recipe.width == "longest_of_one" and len(lengths) == 1):
        return longest
    if longest > recipe.max_length:
        raise InputError(f"to_pipeline: expected at most {recipe.max_length} rows under {recipe.name}, got {longest}")
    if recipe.width == "longest_plus_one":
        return min(longest + 1, recipe.max_length)
    return recipe.max_length


def _pad(rows: list[Tensor], width: int, recipe: Recipe) -> Tensor:
    """(N, W, M), zeros after the rows, or before them."""
    padded = rows[0].new_zeros(len(rows), width, rows[0].shape[1])
    for place, text in enumerate(rows):
        start = width - len(text) if recipe.pads_left else 0
        padded[place, start : start + len(text)] = text
    return padded


def make_mask(recipe: Recipe, lengths: list[int], width: int, embeds: Tensor) -> Tensor | None:
    """(N, W), ones for rows that are kept, where `_pad` puts them; None where the pipeline passes none on."""
    if recipe.mask == "none":
        return None
    kept = torch.arange(width) < torch.tensor(lengths)[:, None]
    if recipe.pads_left:
        kept = kept.flip(1)
    if recipe.mask == "repeated":
        return kept.long().repeat_interleave(embeds.shape[-1], dim=1).to(embeds.device)
    dtype = {"int64": torch.int64, "bool": torch.bool, "float": embeds.dtype}[recipe.mask]
    return kept.to(embeds.device, dtype)


def _build_null(conditioning: Conditioning, embeds: Tensor) -> Tensor | None:
    """(N, W, M) of the null prompt."""
    recipe, null = conditioning.recipe, conditioning.null
    if recipe.null == "none":
        return None
    if recipe.null == "zeros":
        return torch.zeros_like(embeds)
    if null is None:
        raise InputError(f"to_pipeline: expected the null prompt's rows for {recipe.name}, got none")
    width = len(null) if recipe.null_width == "own" else embeds.shape[1]
    if len(null) > width and recipe.width == "longest":
        raise InputError(
            f"to_pipeline: {recipe.name} cuts a negative prompt of {len(null)} tokens to the {width} of the captions "
            "before it is encoded: encode it with them, or give captions that are as long"
        )
    found = _pad([null[:width].to(embeds)], width, recipe)
    return found.expand(len(embeds), -1, -1)


def _mask_null(conditioning: Conditioning, null: Tensor, mask: Tensor | None) -> Tensor | None:
    recipe = conditioning.recipe
    if mask is None or recipe.null_mask == "positive":
        return mask
    if recipe.null_mask == "zeros" or conditioning.null is None:
        return torch.zeros_like(mask)
    count = min(len(conditioning.null), null.shape[1])
    return make_mask(recipe, [count] * len(null), null.shape[1], null)
