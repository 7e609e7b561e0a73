"""Every family beside diffusers' own code: the default call, and every option that a recipe has.

Each case is compared as a batch of nine captions and caption by caption.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from t5enc import TextEncoder
from t5enc.errors import InputError
from t5enc.recipes import RECIPES, find_recipe
from tests.t5enc.recipes.agreement import TOLERANCE, assert_agree
from tests.t5enc.recipes.checkpoints import KINDS
from tests.t5enc.recipes.conftest import MakeFolder
from tests.t5enc.recipes.pipelines.building import build
from tests.t5enc.recipes.pipelines.calls import call_with_transformer
from tests.t5enc.recipes.pipelines.families import FAMILIES
from tests.t5enc.recipes.prompts import NEGATIVE, PROMPTS

diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 't5enc[diffusers]'")

# The values with which each option is tried; one that a recipe has and this table has not fails.
VALUES: dict[str, list[Any]] = {
    "max_sequence_length": [24, 260],
    "clean_caption": [True, False],
    "mask_feature": [True, False],
    "force_zeros_for_empty_prompt": [True, False],
    "negative_prompt": ["", NEGATIVE],
    "negative_prompt_2": ["pale", ""],
    "negative_prompt_3": ["pale", ""],
    "layout_prompt": ["Two boats beside each other."],
    "grid": ["2x3"],
    "task_prompt": ["Colour the drawing."],
}
# What an option is given with.
TOGETHER = {"negative_prompt_2": {"negative_prompt": NEGATIVE}, "negative_prompt_3": {"negative_prompt": NEGATIVE}}


def list_cases() -> Iterator[Any]:
    """Each family with no option, and with each value of each option that is not the default.

    The quick ones are each family with none, and each value with the first family that has it.
    """
    tried: list[tuple[str, Any]] = []
    for name, recipe in RECIPES.items():
        yield pytest.param(name, {})
        for option in recipe.options:
            for value in VALUES[option]:
                options = {option: value} | TOGETHER.get(option, {})
                if find_recipe(name, options) != recipe or recipe.zeroes_empty_null:
                    is_quick = (option, value) not in tried
                    tried.append((option, value))
                    yield pytest.param(name, options, marks=[] if is_quick else pytest.mark.long)


def describe(case: Any) -> str:
    return str(case) if isinstance(case, str) else ",".join(f"{name}={value}" for name, value in case.items())


@cache
def load_theirs(kind: str, folder: Path) -> tuple[Any, Any]:
    """transformers' tokenizer and encoder."""
    classes = {"umt5": transformers.UMT5EncoderModel, "mt5": transformers.MT5EncoderModel}
    model = classes.get(KINDS[kind], transformers.T5EncoderModel).from_pretrained(folder).eval()
    return transformers.AutoTokenizer.from_pretrained(folder), model


@pytest.fixture(autouse=True)
def _silent(caplog: pytest.LogCaptureFixture) -> None:
    """diffusers and transformers warn of captions that are cut, each with its text."""
    caplog.set_level(logging.ERROR)
    diffusers.utils.logging.set_verbosity_error()


@pytest.mark.parametrize(("name", "options"), list(list_cases()), ids=describe)
@torch.no_grad()
def test_the_pipeline_itself_makes_the_same_tensors(
    name: str, options: dict[str, Any], make_folder: MakeFolder
) -> None:
    family = FAMILIES[name]
    folder = make_folder(family.kind, family.limit)
    pipeline = build(family, *load_theirs(family.kind, folder), options)
    encoder = TextEncoder.from_pretrained(folder, recipe=name, recipe_options=options, device="cpu")

    # Mochi with force_zeros_for_empty_prompt looks at the last caption of a batch for all: ours is a batch of one.
    batches = [] if "force_zeros_for_empty_prompt" in options else [PROMPTS]
    for prompts in [*batches, *([prompt] for prompt in PROMPTS)]:
        if not is_cut(name, encoder, prompts):
            assert_agree(encoder.encode(prompts).to_pipeline(), family.encode(pipeline, prompts, options))


def is_cut(name: str, encoder: TextEncoder, prompts: list[str]) -> bool:
    """Whether AudioLDM 2 cuts its negative prompt to the captions before it encodes it, which is refused."""
    null, longest = encoder.preparer.prepare_null(), max(prompt.rows for prompt in encoder.prepare(prompts).prompts)
    if name != "audioldm2" or null is None or null.rows <= longest:
        return False
    with pytest.raises(InputError, match="cuts a negative prompt"):
        encoder.encode(prompts).to_pipeline()
    return True


def test_every_family_is_compared() -> None:
    assert set(FAMILIES) == set(RECIPES)
    for name, family in FAMILIES.items():
        assert RECIPES[name].source == family.class_name


@pytest.mark.parametrize("name", RECIPES)
@torch.no_grad()
def test_captions_of_about_the_longest_length_are_cut_as_the_pipeline_does(name: str, make_folder: MakeFolder) -> None:
    family = FAMILIES[name]
    folder = make_folder(family.kind, family.limit)
    options = {"max_sequence_length": 64} if "max_sequence_length" in RECIPES[name].options else {}
    pipeline = build(family, *load_theirs(family.kind, folder), options)
    encoder = TextEncoder.from_pretrained(folder, recipe=name, recipe_options=options, device="cpu")
    assert encoder.recipe is not None
    longest = encoder.recipe.max_length

    prompts = [find_caption(encoder, longest + more) for more in (-1, 0, 1)]

    assert encoder.prepare(prompts).truncated.tolist() == [False, False, True]
    for batch in [prompts, *([prompt] for prompt in prompts)]:
        assert_agree(encoder.encode(batch).to_pipeline(), family.encode(pipeline, batch, options))


def find_caption(encoder: TextEncoder, tokens: int) -> str:
    """A caption that the recipe makes so many tokens of, its end token and what the recipe adds included."""
    step = "a" if encoder.tokenizer.is_bytes else "a "
    captions = [f'"{step * count}"' for count in range(tokens + 1)]
    lengths = encoder.prepare(captions).lengths.tolist()
    return captions[lengths.index(tokens)]


@torch.no_grad()
def test_allegros_call_puts_a_dimension_of_one_before_the_rows(make_folder: MakeFolder) -> None:
    folder = make_folder("t5")
    pipeline = build(FAMILIES["allegro"], *load_theirs("t5", folder), {})
    found = TextEncoder.from_pretrained(folder, recipe="allegro", device="cpu").encode(PROMPTS).to_pipeline()
    assert found.null_embeds is not None

    sizes = {"sample_frames": 1, "sample_height": 1, "sample_width": 1, "in_channels": 4}
    values = call_with_transformer(pipeline, PROMPTS, **sizes)

    assert values["prompt_embeds"].shape[1:-1] == (1, 512)
    kept = values["prompt_attention_mask"]
    null, positive = values["prompt_embeds"].squeeze(1).mul(kept[..., None]).chunk(2)
    torch.testing.assert_close(found.prompt_embeds, positive, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(found.null_embeds, null, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_wans_call_casts_to_what_its_transformer_computes_in(make_folder: MakeFolder) -> None:
    folder = make_folder("umt5")
    pipeline = build(FAMILIES["wan"], *load_theirs("umt5", folder), {})
    found = TextEncoder.from_pretrained(folder, recipe="wan", device="cpu").encode(PROMPTS).to_pipeline()
    assert found.null_embeds is not None

    values = call_with_transformer(pipeline, PROMPTS)

    for ours, theirs in ((found.prompt_embeds, "prompt_embeds"), (found.null_embeds, "negative_prompt_embeds")):
        assert values[theirs].dtype == torch.bfloat16
        torch.testing.assert_close(ours.bfloat16(), values[theirs])
