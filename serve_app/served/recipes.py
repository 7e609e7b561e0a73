"""The recipes that one model can serve: its own, and any other that a request names and that fits.

M model dim.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from serve_app.served.prepared import Prepared
from serve_app.served.refusals import RefusedError, refuse_value
from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.repository import open_projection
from t5enc.errors import ConfigError, TooLongError
from t5enc.options import NO_RECIPE, EncoderOptions
from t5enc.recipes.describe import describe_line
from t5enc.recipes.families import RECIPES
from t5enc.recipes.forms import make_texts
from t5enc.recipes.overrides import override
from t5enc.recipes.recipe import Recipe
from t5enc.text.preparer import PreparedTexts, Preparer, check_fit
from t5enc.text.prompts import Prompt
from t5enc.text.tokenizer import Tokenizer, check_texts

# Preparers kept, each under a name and options of at most so many characters.
MOST_PREPARERS = 64
LONGEST_KEY = 1000
# The time of IF's cleaning, and of a search for quotes, grows with the square of a caption's length: half a second for
# so many characters, at the worst. Of a longer caption most would be cut in any case.
MOST_CHARACTERS = 5000
SLOW_FORMS = ("hunyuan_image_spans", "hunyuan_video_spans")


@dataclass(frozen=True, slots=True)
class ShownCaption:
    """What a recipe makes of a caption: the texts that are encoded, and its prompt.

    `tokens` are those before it was cut, `pads` those that are computed after the end of a text.
    """

    texts: list[str]
    prompt: Prompt
    is_truncated: bool
    tokens: int
    pads: int


class ServedRecipes:
    """Preparers by recipe and options. Any thread may use them."""

    def __init__(
        self, options: EncoderOptions, checkpoint: Checkpoint, default: Preparer, tokenizer: Tokenizer
    ) -> None:
        """`default` is the preparer that options name; `tokenizer` cuts to the longest text that the model takes.

        ConfigError where the default is none that can be served.
        """
        self._options, self._checkpoint, self._tokenizer = options, checkpoint, tokenizer
        self.default = default.recipe
        self._keep = lru_cache(MOST_PREPARERS)(self._make)
        if self.default is not None:
            self._check(default)

    def find(self, name: str | None, options: Mapping[str, Any]) -> Preparer | None:
        """The preparer of a request: under the default where it names no recipe, None where there is none.

        RefusedError (422) with the reason why a recipe or an option cannot be honoured.
        """
        if name == NO_RECIPE or (name is None and self.default is None):
            if options:
                raise refuse_value("recipe_options", f"expected a recipe with them, got {dict(options)} and none")
            return None
        key = json.dumps(dict(options), sort_keys=True)
        make = self._keep if len(key) <= LONGEST_KEY else self._make
        try:
            return make(name, key)
        except ConfigError as error:
            raise RefusedError(422, "Validation", str(error), field="recipe") from error

    def describe(self) -> list[dict[str, Any]]:
        """Every recipe that fits the model, the default first; `reason` says why one cannot be had as it stands."""
        names = dict.fromkeys([*([self.default.name] if self.default else []), *RECIPES])
        return [self._describe(recipe) for name in names if self._fits(recipe := self._open(name))]

    def _describe(self, recipe: Recipe) -> dict[str, Any]:
        reason = None
        try:
            preparer = self._under(recipe)
            recipe = preparer.recipe or recipe
            self._check(preparer)
        except ConfigError as error:
            reason = str(error)
        return {
            "name": recipe.name,
            "version": recipe.version,
            "description": describe_line(recipe),
            "notes": recipe.notes,
            "max_length": recipe.max_length,
            "options": list(recipe.options),
            "is_default": recipe == self.default,
            "reason": reason,
        }

    def _fits(self, recipe: Recipe) -> bool:
        try:
            check_fit(recipe, self._checkpoint.config, self._tokenizer)
        except ConfigError:
            return False
        return True

    def _make(self, name: str | None, options: str) -> Preparer:
        recipe = override(self._open(name), json.loads(options))
        check_fit(recipe, self._checkpoint.config, self._tokenizer)
        preparer = self._under(recipe)
        self._check(preparer)
        return preparer

    def _open(self, name: str | None) -> Recipe:
        """By name alone: what a request says is never the name of a file."""
        if self.default is not None and name in (None, self.default.name):
            return self.default
        if name is None or name not in RECIPES:
            raise ConfigError(f"recipe: expected one of {', '.join(RECIPES)}, or {NO_RECIPE}, got {name!r}")
        return RECIPES[name]

    def _under(self, recipe: Recipe) -> Preparer:
        return Preparer.under(recipe, self._tokenizer)

    def _check(self, preparer: Preparer) -> None:
        """ConfigError for texts longer than the model takes here, or rows of another width than the model's."""
        recipe, longest = preparer.recipe, self._tokenizer.max_length
        assert recipe is not None
        if is_slow(recipe) and len(recipe.null_text) > MOST_CHARACTERS:
            found = len(recipe.null_text)
            raise ConfigError(
                f"negative_prompt: expected at most {MOST_CHARACTERS} characters under {recipe.name}, got {found}"
            )
        if preparer.longest > longest:
            raise ConfigError(
                f"recipe: {recipe.name} has texts of {preparer.longest} tokens, expected at most {longest}, "
                "the most that is served here"
            )
        repository, width, device = self._checkpoint.repository, self._checkpoint.config.model_dim, torch.device("cpu")
        variant = self._options.source.variant
        if open_projection(recipe, repository, variant, device, model_dim=width) is not None:
            raise ConfigError(
                f"recipe: {recipe.name} projects to another width than the model's {width}; expected "
                f"one that does not, as a service has one width"
            )


def is_slow(recipe: Recipe) -> bool:
    """Whether the time that a caption takes grows with the square of its length."""
    return recipe.clean == "if" or recipe.form in SLOW_FORMS


def prepare_captions(preparer: Preparer, captions: list[str], *, truncate: bool, with_null: bool) -> Prepared:
    """Prompts of N captions, cut as the recipe's pipeline does.

    Raises TooLongError for the first that would be cut where `truncate` is false, InputError for what is no text, or
    too long to be cleaned.
    """
    prepared = _prepare(preparer, captions)
    if prepared.truncated.any() and not truncate:
        index = int(prepared.truncated.argmax())
        raise TooLongError(index, tokens=int(prepared.lengths[index]), limit=preparer.tokenizer.max_length)
    null = preparer.prepare_null() if with_null else None
    return Prepared(prepared.prompts, prepared.truncated.tolist(), preparer.recipe, null)


def show_captions(preparer: Preparer, captions: list[str]) -> list[ShownCaption]:
    """What a recipe makes of captions; nothing is encoded. Raises what `prepare_captions` raises."""
    prepared = _prepare(preparer, captions)
    recipe = preparer.recipe
    assert recipe is not None
    texts = [make_texts(recipe, caption) for caption in captions]
    pads = [_count_pads(prompt, preparer.tokenizer.eos_id) for prompt in prepared.prompts]
    facts = zip(texts, prepared.prompts, prepared.truncated.tolist(), prepared.lengths.tolist(), pads, strict=True)
    return [ShownCaption(*caption) for caption in facts]


def _count_pads(prompt: Prompt, end: int) -> int:
    """Tokens after the last end token of each document."""
    return sum(int((document.ids[::-1] == end).argmax()) for document in prompt.documents)


def _prepare(preparer: Preparer, captions: list[str]) -> PreparedTexts:
    assert preparer.recipe is not None
    if is_slow(preparer.recipe):
        for index, caption in enumerate(check_texts(captions)):
            if len(caption) > MOST_CHARACTERS:
                expected = f"expected at most {MOST_CHARACTERS} characters under {preparer.recipe.name}"
                raise refuse_value(f"texts[{index}]", f"{expected}, got {len(caption)}")
    return preparer.prepare(captions)
