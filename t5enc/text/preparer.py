"""Captions to prompts: cleaned, tokenized, cut and padded as a recipe says, or simply tokenized.

L the recipe's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError
from t5enc.options import EncoderOptions
from t5enc.recipes.cleaning.repair import check_libraries
from t5enc.recipes.forms import make_null_texts, make_texts
from t5enc.recipes.recipe import Recipe
from t5enc.text.prompts import Document, Prompt, TokenIds
from t5enc.text.tokenizer import Tokenizer, check_texts, load_tokenizer

# T5's vocabularies have 32 thousand tokens, mT5's 250 thousand.
LARGE_VOCABULARY = 200_000
T5_VOCABULARIES = (32100, 32128)


@dataclass(frozen=True, slots=True)
class PreparedTexts:
    """Prompts of N captions, which of them were cut, and their tokens before that (end tokens included)."""

    prompts: list[Prompt]
    truncated: NDArray[np.bool_]
    lengths: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparer:
    """A tokenizer under a recipe, whose length is the tokenizer's; without a recipe captions are taken as they are."""

    tokenizer: Tokenizer
    recipe: Recipe | None = None

    @classmethod
    def under(cls, recipe: Recipe, tokenizer: Tokenizer) -> Preparer:
        """With the length that the recipe leaves to the tokenizer filled in; ConfigError for a missing library."""
        check_libraries(recipe.clean)
        length = recipe.max_length or tokenizer.limit or recipe.fallback_length
        if recipe.within_limit and tokenizer.limit is not None:
            length = min(length, tokenizer.limit)
        recipe = replace(recipe, max_length=length)
        return cls(tokenizer=replace(tokenizer, max_length=length), recipe=recipe)

    @property
    def longest(self) -> int:
        """Most tokens of one document."""
        is_padded = self.recipe is not None and self.recipe.form == "glm_spans"
        return self.tokenizer.max_length + is_padded

    def prepare(self, texts: Sequence[str]) -> PreparedTexts:
        """Prompts of N captions; InputError naming the first that is no text."""
        recipe = self.recipe
        if recipe is None:
            tokenized = self.tokenizer.encode(texts)
            return PreparedTexts([Prompt.of(ids) for ids in tokenized.ids], tokenized.truncated, tokenized.lengths)
        return self._tokenize([make_texts(recipe, caption) for caption in check_texts(texts)], recipe)

    def prepare_null(self) -> Prompt | None:
        """The prompt of the recipe's null; None where that is none, or zeros."""
        if self.recipe is None or self.recipe.null != "text":
            return None
        recipe = replace(self.recipe, rows=self.recipe.null_rows or self.recipe.rows)
        return self._tokenize([make_null_texts(recipe)], recipe).prompts[0]

    def _tokenize(self, made: Sequence[Sequence[str]], recipe: Recipe) -> PreparedTexts:
        tokenized = self.tokenizer.encode([text for texts in made for text in texts])
        ends = np.cumsum([len(texts) for texts in made])
        starts = ends - [len(texts) for texts in made]
        slices = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
        prompts = [self._make_prompt(tokenized.ids[part], recipe) for part in slices]
        truncated = np.array([tokenized.truncated[part].any() for part in slices], dtype=bool)
        return PreparedTexts(
            prompts, truncated, np.array([tokenized.lengths[part].sum() for part in slices], dtype=np.int64)
        )

    def _make_prompt(self, texts: Sequence[TokenIds], recipe: Recipe) -> Prompt:
        if recipe.form == "glm_spans" and len(texts) % 2 == 0:
            # GLM-Image pads each span of an even number at its start, and counts the pad as text.
            pad = np.array([self.tokenizer.pad_id], dtype=np.int32)
            texts = [np.concatenate([pad, ids]) for ids in texts]
        return Prompt(tuple(self._make_document(ids, recipe) for ids in texts))

    def _make_document(self, ids: TokenIds, recipe: Recipe) -> Document:
        real, length = len(ids), recipe.max_length
        if recipe.rows == "real_plus_one":
            size = min(real + 1, length)
        else:
            size = length if recipe.attends_pads or recipe.rows == "all" else real
        padded = np.pad(ids, (0, size - real), constant_values=self.tokenizer.pad_id)
        return Document(
            padded,
            keys=size if recipe.attends_pads else real,
            kept=real if recipe.rows == "real" else size,
            finish=recipe.finish,
        )


def check_fit(recipe: Recipe, config: EncoderConfig, tokenizer: Tokenizer) -> None:
    """ConfigError where a checkpoint or its tokenizer is not of the kind that the recipe's pipeline has."""
    found = find_kind(config, tokenizer)
    if found != recipe.encoder and not (found == "t5" and recipe.encoder == "mt5" and _may_be_mt5(config)):
        raise ConfigError(
            f"recipe: {recipe.name} ({recipe.source}) needs {NAMES[recipe.encoder]} with its tokenizer, "
            f"got {NAMES[found]} (vocabulary of {config.vocab_size})"
        )


def find_kind(config: EncoderConfig, tokenizer: Tokenizer) -> str:
    """t5, umt5, mt5 or byt5: a config's model_type says nothing of bytes, and mT5 is often loaded as T5."""
    if tokenizer.is_bytes:
        return "byt5"
    if config.bias_per_layer:
        return "umt5"
    return "mt5" if config.family == "mt5" or config.vocab_size >= LARGE_VOCABULARY else "t5"


def _may_be_mt5(config: EncoderConfig) -> bool:
    """A vocabulary that is neither's own tells nothing, and is taken at its word."""
    return config.vocab_size not in T5_VOCABULARIES


NAMES = {"t5": "a T5", "umt5": "a UMT5", "mt5": "an mT5", "byt5": "a ByT5"}


def open_tokenizer(options: EncoderOptions, checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that options name, or the checkpoint's own, cut to the length of one or the other."""
    length = options.max_length or (checkpoint.modules and checkpoint.modules.find_length()) or options.length
    return load_tokenizer(options.tokenizer_source or checkpoint.tokenizer_source, max_length=length)


def open_preparer(options: EncoderOptions, checkpoint: Checkpoint) -> Preparer:
    """The tokenizer under the recipe that options name; ConfigError where the checkpoint does not fit it."""
    tokenizer = open_tokenizer(options, checkpoint)
    recipe = options.find_recipe()
    if recipe is None:
        if options.recipe_options:
            raise ConfigError(f"recipe_options: expected a recipe with them, got {dict(options.recipe_options)} alone")
        return Preparer(tokenizer=tokenizer)
    check_fit(recipe, checkpoint.config, tokenizer)
    return Preparer.under(recipe, tokenizer)
