"""What a diffusers repository says of its encoder beyond the weights: the recipe, and Stable Audio's projection.

M model dim, P width of the projection.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.errors import CheckpointError, ConfigError
from t5enc.options import NO_RECIPE, EncoderOptions
from t5enc.recipes.inference import InferredRecipe, infer_recipe
from t5enc.recipes.recipe import Recipe

PROJECTION = "projection_model"
WEIGHT, BIAS = "text_projection.weight", "text_projection.bias"


def infer_options(options: EncoderOptions, checkpoint: Checkpoint) -> EncoderOptions:
    """The options with the recipe of the model's repository, where none is named and the pipeline is known.

    The options of a call that are given hold over what the repository sets. ConfigError where they do not fit.
    """
    return apply_inferred(options, find_inferred(options, checkpoint))


def apply_inferred(options: EncoderOptions, found: InferredRecipe | None) -> EncoderOptions:
    """The same with what `find_inferred` found."""
    if found is None:
        return options
    try:
        return replace(options, recipe=found.name, recipe_options={**found.options, **options.recipe_options})
    except ConfigError as error:
        raise ConfigError(
            f"{error} (the recipe {found.name} was inferred from model_index.json, {found.pipeline}; "
            f'"{NO_RECIPE}" as recipe encodes captions as they are)'
        ) from error


def find_inferred(options: EncoderOptions, checkpoint: Checkpoint) -> InferredRecipe | None:
    """What the repository tells; None where a recipe is named, or the model is part of no pipeline that is known."""
    if options.recipe is not None or checkpoint.repository is None:
        return None
    return infer_recipe(checkpoint.repository.index)


def open_projection(
    recipe: Recipe | None, checkpoint: Checkpoint, variant: str | None, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Weight (P, M) and bias (P,) in float32 of a recipe that projects, from the model's repository.

    None where nothing is projected: P is M, the model is not part of a repository, or the recipe projects nothing.
    """
    if recipe is None or recipe.finish != "project" or checkpoint.repository is None:
        return None
    tensors = checkpoint.repository.open_component(PROJECTION, variant)
    if WEIGHT not in tensors:
        return None
    weight, bias = (tensors[name].to(device, torch.float32) for name in (WEIGHT, BIAS))
    if weight.shape[1] != checkpoint.config.model_dim:
        expected = (len(weight), checkpoint.config.model_dim)
        raise CheckpointError(f"{PROJECTION}: {WEIGHT}: expected {expected}, got {tuple(weight.shape)}")
    return weight, bias
