"""A dropped row is what its recipe's pipeline makes of no caption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t5enc import EmbeddingDataset
from t5enc.dataset.draws import Draw
from t5enc.errors import InputError, OutputError
from t5enc.recipes.conditioning import Conditioning
from t5enc.recipes.families import RECIPES
from t5enc.recipes.recipe import Recipe
from tests.t5enc.dataset.outputs import Shard, write_output

SHARDS = [Shard(lengths=[3, 1, 9, 2])]
NULL = torch.arange(8.0).reshape(2, 4)


def open_with(folder: Path, recipe: Recipe, null: torch.Tensor | None) -> EmbeddingDataset:
    write_output(folder, SHARDS, conditioning=Conditioning(recipe, null))
    return EmbeddingDataset(folder)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.null != "none"])
def test_a_dropped_row_is_what_the_pipeline_makes_of_no_caption(tmp_path: Path, name: str) -> None:
    recipe = replace(RECIPES[name], max_length=RECIPES[name].max_length or 16)
    data = open_with(tmp_path, recipe, NULL if recipe.null == "text" else None)
    inputs = data.__getitems__([Draw(2, True), 0, 2]).to_pipeline()
    assert inputs.null_embeds is not None
    width = inputs.null_embeds.shape[1]
    whole = inputs.prompt_embeds.shape[1]
    place = slice(whole - width, whole) if recipe.pads_left else slice(0, width)
    assert torch.equal(inputs.prompt_embeds[0, place], inputs.null_embeds[0])
    assert torch.equal(inputs.prompt_embeds[0].sum(0), inputs.null_embeds[0].sum(0))
    if inputs.prompt_mask is not None and inputs.null_mask is not None and width == whole:
        assert torch.equal(inputs.prompt_mask[0], inputs.null_mask[0])
    assert torch.equal(inputs.prompt_embeds[2].sum(0), data[2].embedding.sum(0))


def test_a_dropped_row_keeps_its_key_and_columns_and_is_collated(tmp_path: Path) -> None:
    write_output(tmp_path, SHARDS, conditioning=Conditioning(RECIPES["wan"], NULL))
    data = EmbeddingDataset(tmp_path, columns=["id"])
    dropped = data[Draw(2, True)]
    assert torch.equal(dropped.embedding, NULL.half())
    assert (dropped.key, dropped.columns) == (data[2].key, data[2].columns)
    batch = data.collate([data[0], dropped])
    assert (batch.lengths.tolist(), batch.dropped.tolist()) == ([3, 2], [False, True])


def test_a_recipe_without_a_null_prompt_drops_nothing(tmp_path: Path) -> None:
    name = next(name for name, recipe in RECIPES.items() if recipe.null == "none")
    data = open_with(tmp_path, RECIPES[name], None)
    with pytest.raises(InputError, match="dropped rows: expected outputs of a recipe with a null prompt"):
        data.__getitems__([Draw(0, True)])


def test_outputs_of_two_recipes_are_refused(tmp_path: Path) -> None:
    write_output(tmp_path / "one", SHARDS, conditioning=Conditioning(RECIPES["wan"], NULL))
    write_output(tmp_path / "two", SHARDS)
    with pytest.raises(OutputError, match=r"two: expected the recipe of .*one, wan, version 1, got none"):
        EmbeddingDataset([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize("null", [torch.ones(2, 5), torch.ones(4)])
def test_null_rows_of_another_width_are_refused(tmp_path: Path, null: torch.Tensor) -> None:
    write_output(tmp_path, SHARDS)
    with pytest.raises(InputError, match=r"null: expected \(K, 4\), got"):
        EmbeddingDataset(tmp_path, null=null)
