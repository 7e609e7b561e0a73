"""A diffusers repository around an encoder: which component it is, its recipe, and Stable Audio's projection.

M model dim, P width of the projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from t5enc.checkpoint.folders import Folder
from t5enc.checkpoint.hf_names import ENCODER_CLASSES
from t5enc.checkpoint.tensor_files import open_tensors
from t5enc.errors import CheckpointError, ConfigError
from t5enc.options import NO_RECIPE, EncoderOptions
from t5enc.recipes.inference import InferredRecipe, infer_recipe
from t5enc.recipes.recipe import Recipe

# What diffusers calls the weights of its own components.
COMPONENT_WEIGHTS = "diffusion_pytorch_model"
PROJECTION = "projection_model"
PROJECTION_WEIGHT, PROJECTION_BIAS = "text_projection.weight", "text_projection.bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A diffusers repository around an encoder: what its model_index.json says, and where its components are."""

    index: Mapping[str, Any]
    folder: Folder

    def open_component(self, name: str, variant: str | None = None) -> Mapping[str, Tensor]:
        """Tensors of a component of diffusers' own, not yet read; CheckpointError where it has no weights.

        A variant is preferred where the component has it.
        """
        place = self.folder.within(name)
        names = [f"{COMPONENT_WEIGHTS}.{variant}.safetensors"] if variant else []
        for file in (*names, f"{COMPONENT_WEIGHTS}.safetensors"):
            if (path := place.find(file)) is not None:
                return open_tensors([path])
        raise CheckpointError(f"no {COMPONENT_WEIGHTS}.safetensors in {place.label}")


def find_encoder_component(index: Mapping[str, Any], label: str) -> str:
    """The first component of a T5 class in a model_index.json, whose entries are name -> [library, class]."""
    classes = {name: entry[-1] for name, entry in index.items() if isinstance(entry, list) and entry}
    for name, class_name in classes.items():
        if class_name in ENCODER_CLASSES:
            return name
    held = ", ".join(f"{name} {class_name}" for name, class_name in classes.items())
    raise CheckpointError(f"model_index.json of {label}: expected a T5 encoder, got {held}")


def infer_options(options: EncoderOptions, repository: Repository | None) -> EncoderOptions:
    """The options with the recipe of the model's repository, where none is named and the pipeline is known.

    The options of a call that are given hold over what the repository sets. ConfigError where they do not fit.
    """
    return apply_inferred(options, find_inferred(options, repository))


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


def find_inferred(options: EncoderOptions, repository: Repository | None) -> InferredRecipe | None:
    """What the repository tells; None where a recipe is named, or the model is part of no pipeline that is known."""
    if options.recipe is not None or repository is None:
        return None
    return infer_recipe(repository.index)


def open_projection(
    recipe: Recipe | None,
    repository: Repository | None,
    variant: str | None,
    device: torch.device,
    *,
    model_dim: int,
) -> tuple[Tensor, Tensor] | None:
    """Weight (P, M) and bias (P,) in float32 of a recipe that projects, from the model's repository.

    None where nothing is projected: P is M, the model is not part of a repository, or the recipe projects nothing.
    """
    if recipe is None or recipe.finish != "project" or repository is None:
        return None
    tensors = repository.open_component(PROJECTION, variant)
    if PROJECTION_WEIGHT not in tensors:
        return None
    weight, bias = (tensors[name].to(device, torch.float32) for name in (PROJECTION_WEIGHT, PROJECTION_BIAS))
    if weight.shape[1] != model_dim:
        expected = (len(weight), model_dim)
        raise CheckpointError(f"{PROJECTION}: {PROJECTION_WEIGHT}: expected {expected}, got {tuple(weight.shape)}")
    return weight, bias
