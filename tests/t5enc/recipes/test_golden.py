"""The recipes beside recorded outputs of the real pipelines, which lie outside the repository.

Recorded are the texts that reached the tokenizer, the ids and the mask that reached the encoder, and what came of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t5enc import TextEncoder
from t5enc.recipes.conditioning import PipelineInputs
from t5enc.recipes.forms import make_null_texts, make_texts
from tests.conftest import SHARED
from tests.t5enc.recipes.agreement import assert_agree

FOLDER = SHARED / "golden_recipes"
FILES = sorted(path.stem for path in FOLDER.glob("*.npz"))
# Files that are not called by a family's name, and what they are.
OVERRIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "wan_226": ("wan", {"max_sequence_length": 226}),
    "flux_schnell_256": ("flux", {"max_sequence_length": 256}),
    "pixart_alpha_noclean": ("pixart_alpha", {"clean_caption": False}),
    "stable_audio": ("stable_audio", {"negative_prompt": "low quality"}),
}
EMBEDS, MASK, NULL, NULL_MASK = "prompt_embeds", "prompt_mask", "negative_embeds", "negative_mask"

pytestmark = pytest.mark.skipif(not FILES, reason="needs the folder shared/golden_recipes beside the checkout")


class Golden:
    """One file: its nine captions, and what a pipeline made of them."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as stored:
            self.arrays = dict(stored)
        self.prompts: list[str] = json.loads(str(self.arrays["prompts"]))
        # The captions as they were tokenized, then the null prompt once a caption where it was encoded apart.
        self.texts: list[list[str]] = json.loads(str(self.arrays["texts"]))
        self.meta: dict[str, Any] = json.loads(str(self.arrays["meta"]))
        self.recipe, self.options = OVERRIDES.get(name, (name, {}))

    @property
    def model(self) -> Path:
        """The encoder that was used, with its tokenizer."""
        return FOLDER / "models" / self.meta["model"]

    def load(self, **options: Any) -> TextEncoder:
        """That encoder under the recipe, at the length that the tokenizer was given where it decides."""
        limit = self.meta.get("tokenizer_model_max_length")
        return TextEncoder.from_pretrained(
            self.model, recipe=self.recipe, recipe_options=self.options, max_length=limit, device="cpu", **options
        )

    def read(self, prefix: str, embeds: str = EMBEDS, null: str = NULL) -> PipelineInputs:
        """The tensors under a prefix."""
        found = [self.arrays.get(prefix + key) for key in (embeds, MASK, null, NULL_MASK)]
        return PipelineInputs(*(None if part is None else torch.from_numpy(part) for part in found))

    def batches(self) -> Iterator[tuple[str, list[str]]]:
        """The prefix of each recorded call, and its captions: all of them, then some alone."""
        yield "", self.prompts
        for place, prompt in enumerate(self.prompts):
            if f"single{place}_{EMBEDS}" in self.arrays:
                yield f"single{place}_", [prompt]


@pytest.mark.parametrize("name", FILES)
def test_the_texts_after_cleaning_are_those_of_the_pipeline(name: str) -> None:
    golden = Golden(name)
    recipe = golden.load().recipe
    assert recipe is not None

    assert [text for prompt in golden.prompts for text in make_texts(recipe, prompt)] == golden.texts[0]
    for null in golden.texts[1:]:
        assert make_null_texts(recipe) * 9 == null


@pytest.mark.parametrize("name", FILES)
def test_the_ids_and_the_mask_of_the_encoder_are_those_of_the_pipeline(name: str) -> None:
    golden = Golden(name)
    encoder = golden.load()
    ids, mask = find_call(golden)

    for row, prompt in enumerate(encoder.prepare(golden.prompts).prompts):
        (document,) = prompt.documents
        attended = len(ids[row]) if mask is None else int(mask[row].sum())
        assert document.keys == attended
        assert np.array_equal(document.ids, ids[row, : len(document.ids)])
        assert set(ids[row, len(document.ids) :]) <= {encoder.tokenizer.pad_id}


def find_call(golden: Golden) -> tuple[Any, Any]:
    """Ids and mask of the nine captions; the negatives of Stable Audio come before them in its one call."""
    mask = golden.arrays.get("enc0_attention_mask")
    return golden.arrays["enc0_input_ids"][-9:], None if mask is None else mask[-9:]


@pytest.mark.parametrize("name", FILES)
def test_the_tensors_are_those_of_the_pipeline(name: str) -> None:
    golden = Golden(name)
    encoder = golden.load(attention="sdpa")

    batches = dict(golden.batches())
    assert list(batches) == ["", "single0_", "single1_"]
    for prefix, prompts in batches.items():
        assert_agree(encoder.encode(prompts).to_pipeline(), golden.read(prefix))


@pytest.mark.long
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["flux_schnell_256", "wan_226", "chroma", "pixart_alpha"])
def test_compiled_flex_makes_the_same_tensors(name: str) -> None:
    if name not in FILES:
        pytest.skip(f"needs shared/golden_recipes/{name}.npz beside the checkout")
    golden = Golden(name)

    found = golden.load(attention="flex").encode(golden.prompts).to_pipeline()

    assert_agree(found, golden.read(""))


def test_stable_audio_without_a_negative_prompt_has_zeros() -> None:
    golden = Golden("stable_audio")
    golden.options = {}

    null = golden.load().encode(golden.prompts).to_pipeline().null_embeds

    assert null is not None
    assert null.shape == golden.arrays[NULL].shape
    assert not null.any()


def test_stable_audio_projects_where_the_widths_differ() -> None:
    golden = Golden("stable_audio")
    plain = golden.load()
    weight, bias = (torch.from_numpy(golden.arrays[f"projection16_{part}"]) for part in ("weight", "bias"))
    encoder = TextEncoder(plain.encoder, plain.preparer, plain.options, projection=(weight, bias))

    for prefix, prompts in golden.batches():
        expected = golden.read(prefix, "projected16_embeds", "projected16_negative")
        assert_agree(encoder.encode(prompts).to_pipeline(), expected)
