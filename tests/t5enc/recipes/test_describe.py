"""Recipes in words: all of them, with every option."""

from __future__ import annotations

from dataclasses import replace

import pytest

from t5enc.recipes import RECIPES, Recipe
from t5enc.recipes.describe import HEADS, MEANINGS, describe, describe_line, summarize
from t5enc.recipes.overrides import OPTIONS


def test_every_option_has_a_meaning() -> None:
    assert set(MEANINGS) == set(OPTIONS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_family_is_described_with_its_source_and_options(name: str) -> None:
    recipe = RECIPES[name]
    words = describe(recipe)
    assert recipe.source in words["source"]
    assert recipe.source in words["classes"]
    assert all(option in words["options"] for option in recipe.options)
    assert all(words.values())
    assert len(summarize(recipe)) == len(HEADS)
    assert describe_line(recipe).startswith(f"{name}, version {recipe.version}")


def test_recipes_that_differ_in_a_field_are_not_described_alike() -> None:
    recipe = Recipe(name="mine", max_length=64, mask="int64")
    changes = [
        {"encoder": "umt5"},
        {"clean": "wan"},
        {"form": "glm_spans"},
        {"max_length": 65},
        {"max_length": 0},
        {"longest": 99},
        {"within_limit": True},
        {"attends_pads": True},
        {"rows": "all"},
        {"rows": "real_plus_one"},
        {"width": "longest"},
        {"pads_left": True},
        {"mask": "bool"},
        {"finish": "add_norms"},
        {"null": "zeros"},
        {"null": "none"},
        {"null_text": "pale"},
        {"cleans_null": False},
        {"null_rows": "all"},
        {"null_mask": "zeros"},
        {"null_width": "own"},
        {"zeroes_empty_null": True},
        {"version": 2},
        {"notes": "new"},
    ]
    found = [str(describe(replace(recipe, **change))) for change in [{}, *changes]]
    assert len(set(found)) == len(found)
