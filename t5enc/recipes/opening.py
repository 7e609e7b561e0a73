"""A recipe by its family's name, from a YAML file, or as it is; with what a call changes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t5enc.errors import ConfigError
from t5enc.recipes.families import RECIPES
from t5enc.recipes.overrides import override
from t5enc.recipes.recipe import Recipe
from t5enc.recipes.yaml_files import read_options


def find_recipe(name: str | os.PathLike[str] | Recipe, options: Mapping[str, Any] | None = None) -> Recipe:
    """A family's recipe, or one's own (a Recipe, or a YAML file of its fields), with a call's options."""
    return override(open_recipe(name), options or {})


def open_recipe(name: str | os.PathLike[str] | Recipe) -> Recipe:
    """The recipe as it stands; ConfigError for a name that is none.

    A file's fields are those of Recipe; `based_on` names a family whose fields hold where the file has none.
    """
    if isinstance(name, Recipe):
        return name
    text = os.fspath(name)
    if is_recipe_file(text):
        return _read_recipe(Path(text))
    if text not in RECIPES:
        raise ConfigError(f"recipe: expected one of {', '.join(RECIPES)}, or a YAML file, got {text!r}")
    return RECIPES[text]


def is_recipe_file(name: str) -> bool:
    """Whether a recipe's name is that of a file."""
    return name.endswith((".yaml", ".yml", ".json"))


def _read_recipe(path: Path) -> Recipe:
    # YAML takes a bare `null` for nothing at all.
    values = {"null" if name == "None" else name: value for name, value in read_options(path).items()}
    base = values.pop("based_on", None)
    if base is not None and base not in RECIPES:
        raise ConfigError(f"{path}: based_on: expected one of {', '.join(RECIPES)}, got {base!r}")
    given = {} if base is None else RECIPES[base].to_mapping()
    try:
        return Recipe.from_mapping(given | values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
