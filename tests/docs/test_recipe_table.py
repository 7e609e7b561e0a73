"""The table of what recipes take on disk, in docs/recipes.md, is what the code makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.paper.recipe_table import find_encoder, make_table, read_rows
from t5enc.recipes import RECIPES

PAGE = (Path(__file__).resolve().parents[2] / "docs/recipes.md").read_text(encoding="utf-8")


def test_the_pages_table_is_what_the_code_makes_of_its_rows() -> None:
    rows = read_rows(PAGE)
    assert list(rows) == list(RECIPES)
    assert make_table(rows) in PAGE


def test_a_padded_wan_caption_takes_what_trainers_know() -> None:
    assert find_encoder(RECIPES["wan"]).width == 4096
    assert "| 8.39 MB |" in make_table(dict.fromkeys(RECIPES, 1))


@pytest.mark.long
def test_the_pages_rows_are_those_of_real_prompts(shared: Path) -> None:
    from benchmarks.conditions.corpus import draw_prompts
    from benchmarks.recipes import find_medians, load_tokenizers

    names = ("wan", "flux", "chroma", "hunyuandit", "cosmos", "glm_image", "hunyuan_image")
    found = find_medians(draw_prompts(None, 3000), load_tokenizers(), names)
    assert found == {name: read_rows(PAGE)[name] for name in names}
