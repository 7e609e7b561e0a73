"""Recipes as data: what is accepted, what a call may change, which checkpoints fit, and what holds for any captions."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from t5enc import TextEncoder
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import ConfigError, InputError
from t5enc.recipes import RECIPES, Recipe, find_recipe
from t5enc.recipes.overrides import OPTIONS
from tests.t5enc.recipes.agreement import TOLERANCE, find_kept

# A built-in model of each kind of encoder.
MODELS = {"t5": "builtin:tiny", "umt5": "builtin:tiny-umt5", "mt5": "builtin:tiny-mt5", "byt5": "builtin:tiny-byt5"}
# Families whose tensors are as wide as a batch needs, or whose batch is unlike a batch of one.
WIDE_AS_NEEDED = [name for name, recipe in RECIPES.items() if recipe.width != "max_length"]
# Of a law that is cheap; those that encode captions are tried on fewer.
EXAMPLES = settings.default.max_examples
CAPTIONS = st.lists(
    st.one_of(st.sampled_from(["", '"Open" and “shut”', "'a' \"b\" 「c」"]), st.sampled_from(sample_captions())),
    min_size=1,
    max_size=4,
)


@cache
def load(name: str) -> TextEncoder:
    """A family's recipe on a built-in model, at a short length where the call may have one."""
    recipe = RECIPES[name]
    options = {"max_sequence_length": 40} if "max_sequence_length" in recipe.options else {}
    return TextEncoder.from_pretrained(MODELS[recipe.encoder], recipe=recipe, recipe_options=options, device="cpu")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_plain_values(name: str) -> None:
    values = RECIPES[name].to_mapping()

    assert Recipe.from_mapping(values) == RECIPES[name]
    assert Recipe.from_mapping(json.loads(json.dumps(values))) == RECIPES[name]
    assert Recipe.from_mapping(yaml.safe_load(yaml.safe_dump(values))) == RECIPES[name]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_length": 8}, "name: a recipe needs it"),
        ({"name": "mine"}, "max_length: a recipe needs it"),
        ({"name": "mine", "max_length": 8, "lenght": 8}, "lenght: no such field of a recipe; expected one of name"),
        ({"name": "mine", "max_length": "8"}, "max_length: expected a whole number, got '8'"),
        ({"name": "mine", "max_length": True}, "max_length: expected a whole number, got True"),
        ({"name": "mine", "max_length": -1}, "max_length: expected 0 to any length, got -1"),
        ({"name": "mine", "max_length": 9, "longest": 8}, "max_length: expected 0 to 8, got 9"),
        ({"name": "mine", "max_length": 8, "longest": "8"}, "longest: expected a whole number, got '8'"),
        ({"name": "mine", "max_length": 8, "attends_pads": "no"}, "attends_pads: expected true or false, got 'no'"),
        ({"name": "mine", "max_length": 8, "clean": "soap"}, "clean: expected one of none, lower, if, wan, longcat"),
        ({"name": "mine", "max_length": 8, "null_rows": "some"}, "null_rows: expected one of real, real_plus_one, all"),
        ({"name": "mine", "max_length": 8, "null_text": 3}, "null_text: expected a string, got 3"),
        ({"name": "mine", "max_length": 8, "options": "grid"}, "options: expected a list of strings, got 'grid'"),
        ({"name": "mine", "max_length": 8, "options": ["grid", 3]}, "options: expected a string, got 3"),
        ({"name": Path("mine"), "max_length": 8}, r"name: expected a string, got .*Path\('mine'\)"),
        ({"name": "mine", "max_length": 8, "attends_pads": True, "rows": "real_plus_one"}, "rows: expected real or"),
    ],
)
def test_values_that_are_no_recipe_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Recipe.from_mapping(values)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("flux", {"clean_caption": True}, "clean_caption: no such option of the recipe flux; expected one of max_seq"),
        ("flux", {"max_sequence_length": 513}, "max_sequence_length: expected 1 to 512 for flux, got 513"),
        ("wan", {"max_sequence_length": 0}, "max_sequence_length: expected 1 to any length for wan, got 0"),
        ("wan", {"max_sequence_length": "226"}, "max_sequence_length: .* got '226'"),
        ("wan", {"negative_prompt": None}, "negative_prompt: expected a text, got None"),
        ("pixart_alpha", {"clean_caption": "yes"}, "clean_caption: expected true or false, got 'yes'"),
        ("latte", {"mask_feature": 0}, "mask_feature: expected true or false, got 0"),
        ("latte", {"max_sequence_length": 60}, "max_sequence_length: no such option of the recipe latte"),
        ("mochi", {"force_zeros_for_empty_prompt": 1}, "force_zeros_for_empty_prompt: expected true or false, got 1"),
        ("visualcloze", {"grid": "2 by 3"}, "grid: expected ROWSxCOLUMNS, such as 2x3, got '2 by 3'"),
        ("flux", {"negative_prompt_2": "blurry"}, "negative_prompt_2: FluxPipeline reads it only beside a negative"),
    ],
)
def test_options_that_the_pipeline_would_not_take_are_refused(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        find_recipe(name, options)


def test_an_option_that_no_pipeline_has_is_refused_in_ones_own_recipe() -> None:
    with pytest.raises(ConfigError, match=r"options of mine: expected some of max_sequence_length, .*, got 'colour'"):
        find_recipe(Recipe(name="mine", max_length=8, options=("colour",)))


def test_options_count_the_same_in_any_order() -> None:
    options = {"negative_prompt_3": "pale", "negative_prompt": "blurred"}

    assert find_recipe("stable_diffusion_3", options) == find_recipe(
        "stable_diffusion_3", dict(reversed(options.items()))
    )
    assert find_recipe("stable_diffusion_3", options).null_text == "pale"


def test_every_option_is_some_familys() -> None:
    assert {option for recipe in RECIPES.values() for option in recipe.options} == set(OPTIONS)


@pytest.mark.parametrize(
    ("name", "model", "reason"),
    [
        ("wan", "t5", r"wan \(WanPipeline\) needs a UMT5 with its tokenizer, got a T5 \(vocabulary of 1000\)"),
        ("wan", "byt5", "needs a UMT5 with its tokenizer, got a ByT5"),
        ("flux", "umt5", "needs a T5 with its tokenizer, got a UMT5"),
        ("flux", "mt5", "needs a T5 with its tokenizer, got an mT5"),
        ("flux", "byt5", "needs a T5 with its tokenizer, got a ByT5"),
        ("hunyuan_image", "t5", "needs a ByT5 with its tokenizer, got a T5"),
        ("glm_image", "umt5", "needs a ByT5 with its tokenizer, got a UMT5"),
        ("hunyuandit", "umt5", "needs an mT5 with its tokenizer, got a UMT5"),
        ("hunyuandit", "byt5", "needs an mT5 with its tokenizer, got a ByT5"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(name: str, model: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        TextEncoder.from_pretrained(MODELS[model], recipe=name, device="cpu")


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=EXAMPLES // 2)
@given(captions=CAPTIONS)
def test_prompts_keep_to_the_recipes_length(name: str, captions: list[str]) -> None:
    encoder = load(name)
    recipe = encoder.recipe
    assert recipe is not None

    for prompt in encoder.prepare(captions).prompts:
        for document in prompt.documents:
            assert 1 <= document.keys <= len(document.ids) <= encoder.preparer.longest
            assert document.kept <= len(document.ids)
            assert len(document.ids) == recipe.max_length or not (recipe.attends_pads or recipe.rows == "all")


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=EXAMPLES // 10)
@given(captions=CAPTIONS)
def test_tensors_have_the_shapes_that_masks_and_widths_say(name: str, captions: list[str]) -> None:
    encoder = load(name)
    recipe = encoder.recipe
    assert recipe is not None

    embeddings = encoder.encode(captions)
    found = embeddings.to_pipeline()

    count, width, dim = found.prompt_embeds.shape
    assert (count, dim) == (len(captions), encoder.dim)
    if recipe.width == "max_length":
        assert width == recipe.max_length
    if found.prompt_mask is not None:
        kept = find_kept(found.prompt_mask, found.prompt_embeds)
        assert kept.sum(1).tolist() == embeddings.lengths.tolist()
        assert torch.equal(found.prompt_embeds[kept], embeddings.values)
    if found.null_embeds is not None:
        assert found.null_embeds.shape[0] == count
        assert recipe.null_width == "own" or found.null_embeds.shape == found.prompt_embeds.shape
    assert (found.null_mask is None) == (found.prompt_mask is None or found.null_embeds is None)


@pytest.mark.parametrize("pads_left", [False, True])
@pytest.mark.parametrize("width", ["max_length", "longest_plus_one"])
@pytest.mark.parametrize("mask", ["int64", "bool", "float", "repeated"])
def test_a_mask_marks_the_rows_on_whichever_side_the_zeros_stand(mask: str, width: str, *, pads_left: bool) -> None:
    values = {"mask": mask, "width": width, "pads_left": pads_left, "null_text": "a bad picture"}
    recipe = Recipe.from_mapping({"name": "mine", "max_length": 60} | values)
    encoder = TextEncoder.from_pretrained("builtin:tiny", recipe=recipe, device="cpu")
    embeddings = encoder.encode(["a bird", "", "two birds in a tall tree"])

    found = embeddings.to_pipeline()

    assert found.prompt_mask is not None
    assert torch.equal(found.prompt_embeds[find_kept(found.prompt_mask, found.prompt_embeds)], embeddings.values)
    assert embeddings.conditioning is not None
    null = embeddings.conditioning.null
    assert null is not None
    assert found.null_embeds is not None
    assert found.null_mask is not None
    kept = find_kept(found.null_mask, found.null_embeds)
    assert torch.equal(found.null_embeds[kept], null.repeat(len(embeddings), 1))


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in WIDE_AS_NEEDED])
@settings(max_examples=EXAMPLES // 20)
@given(captions=CAPTIONS)
def test_a_caption_alone_is_its_row_of_a_batch(name: str, captions: list[str]) -> None:
    encoder = load(name)
    batch = encoder.encode(captions).to_pipeline()

    for place, caption in enumerate(captions):
        alone = encoder.encode([caption]).to_pipeline()
        torch.testing.assert_close(alone.prompt_embeds[0], batch.prompt_embeds[place], rtol=0, atol=TOLERANCE)
        if batch.prompt_mask is not None and alone.prompt_mask is not None:
            assert torch.equal(alone.prompt_mask[0], batch.prompt_mask[place])


@pytest.mark.parametrize("name", WIDE_AS_NEEDED)
def test_the_rows_of_a_caption_do_not_depend_on_its_batch(name: str) -> None:
    encoder = load(name)
    captions = ["", '"Open" and "shut"', *sample_captions()[:3]]

    batch = encoder.encode(captions)

    for place, caption in enumerate(captions):
        torch.testing.assert_close(encoder.encode([caption]).values, batch[place], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", RECIPES)
def test_no_captions_are_no_batch(name: str) -> None:
    with pytest.raises(InputError, match="to_pipeline: expected at least one caption, got none"):
        load(name).encode([]).to_pipeline()


def test_embeddings_of_no_recipe_are_refused() -> None:
    with pytest.raises(InputError, match="to_pipeline: expected embeddings made by a recipe"):
        TextEncoder.from_pretrained("builtin:tiny", device="cpu").encode(["a"]).to_pipeline()


@pytest.mark.parametrize("name", ["hunyuan_image", "hunyuan_video1_5"])
def test_captions_that_quote_nothing_have_no_rows_and_an_empty_mask(name: str) -> None:
    encoder = load(name)
    embeddings = encoder.encode(["a cat", ""])

    found = embeddings.to_pipeline()

    assert embeddings.lengths.tolist() == [0, 0]
    assert encoder.recipe is not None
    assert found.prompt_embeds.shape == (2, encoder.recipe.max_length, encoder.dim)
    assert found.prompt_mask is not None
    assert not found.prompt_embeds.any()
    assert not found.prompt_mask.any()


def test_mochis_empty_captions_have_no_rows_where_its_checkpoint_zeroes_them() -> None:
    options = {"force_zeros_for_empty_prompt": True}
    encoder = TextEncoder.from_pretrained("builtin:tiny", recipe="mochi", recipe_options=options, device="cpu")

    assert encoder.encode(["", "a cat", ""]).lengths.bool().tolist() == [False, True, False]


def test_the_length_that_a_recipe_leaves_to_the_tokenizer_is_its_own_or_the_familys() -> None:
    encoders = [TextEncoder.from_pretrained("builtin:tiny", recipe="stable_audio", device="cpu", max_length=length)
                for length in (None, 77)]  # fmt: skip

    assert [encoder.recipe.max_length for encoder in encoders if encoder.recipe] == [128, 77]
