"""A recipe by name or from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from t5enc.errors import ConfigError
from t5enc.recipes import RECIPES, Recipe, find_recipe


def test_a_file_is_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmax_length: 30\nclean: lower\nnull: zeros\noptions: [max_sequence_length]\n")

    expected = Recipe(name="mine", max_length=30, clean="lower", null="zeros", options=("max_sequence_length",))
    assert find_recipe(path) == expected
    assert find_recipe(str(path), {"max_sequence_length": 20}).max_length == 20


def test_a_file_takes_the_fields_that_it_has_not_from_a_family(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("based_on: pixart_sigma\nname: mine\nmax_length: 200\n")

    assert find_recipe(path).to_mapping() == RECIPES["pixart_sigma"].to_mapping() | {"name": "mine", "max_length": 200}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("based_on: fluxx\n", "mine.yaml: based_on: expected one of wan, .*, got 'fluxx'"),
        ("based_on: flux\nrows: every\n", "mine.yaml: rows: expected one of real, real_plus_one, all, got 'every'"),
        ("max_length: 3\n", "mine.yaml: name: a recipe needs it"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_its_name(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)

    with pytest.raises(ConfigError, match=reason):
        find_recipe(tmp_path / "mine.yaml")


def test_a_name_that_is_no_family_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"recipe: expected one of wan, .*flux.*, or a YAML file, got 'pag'"):
        find_recipe("pag")
