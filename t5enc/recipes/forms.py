"""A caption as the texts that are encoded: itself, cleaned; within a template; or what it quotes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from t5enc.recipes.cleaning import CLEANERS
from t5enc.recipes.recipe import Form, Recipe

# In the order in which the pipelines look for them.
GLM_QUOTES = [re.compile(pattern) for pattern in ("'([^']*)'", "“([^“”]*)”", '"([^"]*)"', "「([^「」]*)」")]
HUNYUAN_IMAGE_QUOTES = [re.compile(pattern) for pattern in ("'(.*?)'", '"(.*?)"', "‘(.*?)’", "“(.*?)”")]
HUNYUAN_VIDEO_QUOTES = re.compile('"(.*?)"|“(.*?)”')


def make_texts(recipe: Recipe, caption: str) -> list[str]:
    """The texts of a caption, cleaned; none where there is nothing to encode."""
    if recipe.zeroes_empty and not caption:
        return []
    return FORMS[recipe.form](recipe, CLEANERS[recipe.clean](caption))


def make_null_texts(recipe: Recipe) -> list[str]:
    """The texts of the family's null prompt."""
    return make_texts(recipe if recipe.cleans_null else replace(recipe, clean="none"), recipe.null_text)


def _as_caption(recipe: Recipe, caption: str) -> list[str]:
    return [caption]


def _fill_template(recipe: Recipe, caption: str) -> list[str]:
    """VisualCloze's prompt; what is empty leaves its space."""
    return [f"{recipe.layout} {recipe.task} The last image of the last row depicts: {caption}".strip()]


def _quote_glm(recipe: Recipe, caption: str) -> list[str]:
    return _find_all(GLM_QUOTES, caption) or [""]


def _quote_hunyuan_image(recipe: Recipe, caption: str) -> list[str]:
    return _name_quotes(_find_all(HUNYUAN_IMAGE_QUOTES, caption))


def _quote_hunyuan_video(recipe: Recipe, caption: str) -> list[str]:
    quotes = [straight or curly for straight, curly in HUNYUAN_VIDEO_QUOTES.findall(caption)]
    return _name_quotes(list(dict.fromkeys(quotes)))


def _find_all(patterns: Sequence[re.Pattern[str]], caption: str) -> list[str]:
    return [quote for pattern in patterns for quote in pattern.findall(caption)]


def _name_quotes(quotes: Sequence[str]) -> list[str]:
    """One text of all quotes, as ByT5's glyph encoders were trained with; none without any."""
    return ["".join(f'Text "{quote}". ' for quote in quotes)] if quotes else []


FORMS: Mapping[Form, Callable[[Recipe, str], list[str]]] = {
    "caption": _as_caption,
    "visualcloze": _fill_template,
    "glm_spans": _quote_glm,
    "hunyuan_image_spans": _quote_hunyuan_image,
    "hunyuan_video_spans": _quote_hunyuan_video,
}
