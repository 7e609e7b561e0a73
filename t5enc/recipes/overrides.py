"""What a pipeline's call may change of its recipe, under the pipeline's own names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from t5enc.errors import ConfigError
from t5enc.recipes.recipe import Recipe

GRID = re.compile(r"(\d{1,4})x(\d{1,4})")


def override(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """The recipe of a call with these options; ConfigError for one that the family has not, or a value it refuses.

    They are applied in the order of the recipe's own list, whatever the order in which they are given.
    """
    for name in recipe.options:
        if name not in OPTIONS:
            raise ConfigError(f"options of {recipe.name}: expected some of {', '.join(OPTIONS)}, got {name!r}")
    for name in options:
        if name not in recipe.options:
            expected = f"one of {', '.join(recipe.options)}" if recipe.options else "none"
            raise ConfigError(f"{name}: no such option of the recipe {recipe.name}; expected {expected}")
    for name in recipe.options:
        if name in options:
            recipe = OPTIONS[name](recipe, options[name])
    return recipe


def _set_length(recipe: Recipe, value: Any) -> Recipe:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= (recipe.longest or value):
        limit = recipe.longest or "any length"
        raise ConfigError(f"max_sequence_length: expected 1 to {limit} for {recipe.name}, got {value!r}")
    return replace(recipe, max_length=value)


def _set_cleaning(recipe: Recipe, value: Any) -> Recipe:
    return replace(recipe, clean="if" if _is_true("clean_caption", value) else "lower")


def _set_mask_feature(recipe: Recipe, value: Any) -> Recipe:
    """Without it Latte passes all rows on as they are."""
    if _is_true("mask_feature", value):
        return recipe
    return replace(recipe, rows="all", width="max_length")


def _set_zeroes_empty(recipe: Recipe, value: Any) -> Recipe:
    return replace(recipe, zeroes_empty=_is_true("force_zeros_for_empty_prompt", value))


def _set_negative(recipe: Recipe, value: Any) -> Recipe:
    """A text of the user's own in the place of the family's null; an empty one means what the family makes of it."""
    if not _check_text("negative_prompt", value) and recipe.zeroes_empty_null:
        return recipe
    return replace(recipe, null="text", null_text=value, null_mask="own")


def _set_second_negative(name: str, recipe: Recipe, value: Any) -> Recipe:
    """The negative prompt of T5 alone, where a pipeline has several encoders; an empty one leaves it to the first's."""
    if recipe.null == "none":
        raise ConfigError(f"{name}: {recipe.source} reads it only beside a negative_prompt, got none")
    return _set_negative(recipe, value) if _check_text(name, value) else recipe


def _set_task(recipe: Recipe, value: Any) -> Recipe:
    return replace(recipe, task=_check_text("task_prompt", value))


def _set_layout(recipe: Recipe, value: Any) -> Recipe:
    return replace(recipe, layout=_check_text("layout_prompt", value))


def _set_grid(recipe: Recipe, value: Any) -> Recipe:
    """Two rows of three images are "2x3"; the pipeline writes them out, and by accident as a tuple of one."""
    found = GRID.fullmatch(str(value))
    if found is None:
        raise ConfigError(f"grid: expected ROWSxCOLUMNS, such as 2x3, got {value!r}")
    rows, columns = found.groups()
    images = int(rows) * int(columns)
    shape = f"{int(rows)} rows and {int(columns)} columns"
    return replace(recipe, layout=f"('A grid layout with {shape}, displaying {images} images arranged side by side.',)")


def _check_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name}: expected a text, got {value!r}")
    return value


def _is_true(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: expected true or false, got {value!r}")
    return value


OPTIONS: Mapping[str, Callable[[Recipe, Any], Recipe]] = {
    "max_sequence_length": _set_length,
    "clean_caption": _set_cleaning,
    "mask_feature": _set_mask_feature,
    "force_zeros_for_empty_prompt": _set_zeroes_empty,
    "negative_prompt": _set_negative,
    "negative_prompt_2": partial(_set_second_negative, "negative_prompt_2"),
    "negative_prompt_3": partial(_set_second_negative, "negative_prompt_3"),
    "task_prompt": _set_task,
    "layout_prompt": _set_layout,
    "grid": _set_grid,
}
