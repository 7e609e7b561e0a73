"""What diffusion pipelines feed their T5: recipes as data, and the cleaning that some of them do."""

from __future__ import annotations

from t5enc.recipes.families import RECIPES
from t5enc.recipes.opening import find_recipe
from t5enc.recipes.recipe import Recipe

__all__ = ["RECIPES", "Recipe", "find_recipe"]
