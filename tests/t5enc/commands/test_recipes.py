"""`t5enc recipes`: a table that fits a terminal, one recipe in words, JSON, and options as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from t5enc.cli import build_app
from t5enc.commands.option_files import parse_pairs
from t5enc.errors import ConfigError, T5encError
from t5enc.recipes import RECIPES, Recipe


def run(*arguments: str, columns: int = 100) -> str:
    result = CliRunner().invoke(build_app(), ["recipes", *arguments], env={"COLUMNS": str(columns)})
    if isinstance(result.exception, T5encError):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_the_list_has_every_family_whole_in_a_hundred_columns() -> None:
    lines = run().splitlines()
    first = [line.split()[0] for line in lines if line.split()]
    assert [name for name in first if name in RECIPES] == list(RECIPES)
    assert all(len(line) <= 100 for line in lines)
    assert "…" not in "".join(lines).replace('"The vide…"', "")


def test_one_is_shown_in_words_with_its_source_and_its_options() -> None:
    shown = " ".join(run("show", "flux", "--option", "max_sequence_length=256").split())
    assert "FluxPipeline, read from diffusers" in shown
    assert "256 tokens" in shown
    assert "negative_prompt_2" in shown


def test_json_holds_the_fields() -> None:
    listed = json.loads(run("--json"))
    assert [entry["name"] for entry in listed] == list(RECIPES)
    shown = json.loads(run("show", "wan", "--json"))
    fields = {name: value for name, value in shown.items() if name not in ("words", "read_from")}
    assert Recipe.from_mapping(fields) == RECIPES["wan"]


def test_a_file_is_a_name_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("based_on: flux\nname: mine\nmax_length: 77\nsource: ''\n")
    shown = run("show", str(path))
    assert "your own" in shown
    assert "77 tokens" in shown


def test_an_option_that_the_family_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="clean_caption: no such option of the recipe flux"):
        run("show", "flux", "--option", "clean_caption=false")


def test_values_are_what_they_look_like_and_prompts_stay_texts() -> None:
    pairs = ["a=256", "b=true", "c=false", 'd="true"', "e=no", "f=", "g=blurry: very, x=1", "clean-caption=-3", "h=''"]
    found = {"a": 256, "b": True, "c": False, "d": "true", "e": "no", "f": "", "g": "blurry: very, x=1", "h": ""}
    assert parse_pairs("option", pairs) == found | {"clean_caption": -3}


@pytest.mark.parametrize("pair", ["max_sequence_length", "=3"])
def test_a_pair_without_name_or_value_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="recipe_option: expected NAME=VALUE, got"):
        parse_pairs("recipe_option", [pair])
