"""A recipe in words: one line of a table, or everything that is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5enc.recipes.inference import PIPELINES
from t5enc.recipes.recipe import Recipe

READ_FROM = "diffusers 0.42.1"
HEADS = ("recipe", "encoder", "length", "text", "kept", "mask", "null", "packed")
ENCODERS = {"t5": "T5", "umt5": "UMT5", "mt5": "mT5", "byt5": "ByT5"}
CLEANING = {
    "none": "Captions are not cleaned.",
    "lower": "Captions are put in lower case, and stripped.",
    "if": "Captions are cleaned as DeepFloyd IF does it, twice: lower case, no links, tags, handles or file names.",
    "wan": "Captions are repaired (ftfy), HTML's entities read, runs of white space made one space.",
    "longcat": "Captions are put in lower case, quotes and runs of white space made one space.",
}
FORMS = {
    "caption": "The caption is the text that is encoded.",
    "visualcloze": "The caption stands in a template after the layout prompt and the task prompt.",
    "glm_spans": "Only what stands in quotes is encoded, each span alone; without any, an empty text is.",
    "hunyuan_image_spans": "Only what stands in quotes is encoded, all of it in one text; without any, nothing is.",
    "hunyuan_video_spans": "Only what stands in double quotes is encoded, each once, all in one text.",
}
ROWS = {
    "real": "The rows of its tokens are kept.",
    "real_plus_one": "The rows of its tokens and of the first pad are kept.",
    "all": "All rows are kept, those of pads too.",
}
WIDTHS = {
    "max_length": "The tensor is as wide as the length, and zero where no row is kept.",
    "longest": "The tensor is as wide as the longest of the captions given to to_pipeline.",
    "longest_plus_one": "The tensor is one wider than the longest of the captions given to to_pipeline.",
    "longest_of_one": "One caption given to to_pipeline alone is cut to its tokens; several are padded to the length.",
}
MASKS = {
    "none": "No mask is passed on.",
    "int64": "A mask is passed on, of int64.",
    "bool": "A mask is passed on, of bool.",
    "float": "A mask is passed on, in the dtype of the embeddings.",
    "repeated": "A mask is passed on, each value as often as a row has numbers.",
}
FINISHES = {
    "none": "The rows are the last hidden states, after the final norm.",
    "add_norms": "The rows are the last hidden states and the token embeddings, each normed, added.",
    "project": "The rows are the last hidden states after the repository's projection, if it has one.",
}
MEANINGS = {
    "max_sequence_length": "the length in tokens",
    "clean_caption": "false: only lower case and strip",
    "mask_feature": "false: all rows as they are",
    "force_zeros_for_empty_prompt": "true: an empty caption is zeros; set by the checkpoint",
    "negative_prompt": "a text in the place of the null prompt",
    "negative_prompt_2": "the same for the T5 encoder alone, beside a negative_prompt",
    "negative_prompt_3": "the same for the T5 encoder alone, beside a negative_prompt",
    "task_prompt": "what the images show together",
    "layout_prompt": "how they are arranged, in words",
    "grid": "the same as ROWSxCOLUMNS, such as 2x3",
}


def summarize(recipe: Recipe) -> tuple[str, ...]:
    """The cells of a recipe in a table with HEADS."""
    return (
        recipe.name,
        ENCODERS[recipe.encoder],
        name_length(recipe),
        name_text(recipe),
        {"real": "tokens", "real_plus_one": "tokens, 1 pad", "all": "all rows"}[recipe.rows],
        recipe.mask,
        name_null(recipe),
        "yes" if is_packed(recipe) else "no",
    )


def name_text(recipe: Recipe) -> str:
    """What becomes of a caption: how it is cleaned, or what else is made of it."""
    if recipe.form == "caption":
        return recipe.clean
    return "template" if recipe.form == "visualcloze" else "quotes"


def is_packed(recipe: Recipe) -> bool:
    """Whether no pad is computed, or at most one a caption."""
    return not recipe.attends_pads and recipe.rows != "all"


def name_length(recipe: Recipe) -> str:
    """The length in tokens, or who says it."""
    return str(recipe.max_length) if recipe.max_length else "tokenizer"


def name_null(recipe: Recipe) -> str:
    """What stands for no caption, shortly."""
    if recipe.null != "text":
        return recipe.null
    text = recipe.null_text
    return f'"{text}"' if len(text) <= 10 else f'"{text[:8]}…"'


def describe_line(recipe: Recipe) -> str:
    """A recipe in one line."""
    pads = "pads attended" if recipe.attends_pads else "pads masked"
    kept = {"real": "tokens kept", "real_plus_one": "tokens and one pad kept", "all": "all rows kept"}[recipe.rows]
    return (
        f"{recipe.name}, version {recipe.version} ({recipe.source or 'your own'}): {ENCODERS[recipe.encoder]}, "
        f"length {name_length(recipe)}, text {name_text(recipe)}, {pads}, {kept}, mask {recipe.mask}, "
        f"null {name_null(recipe)}"
    )


def describe(recipe: Recipe) -> dict[str, str]:
    """Everything that a recipe says, as heads and sentences."""
    source = f"{recipe.source}, read from {READ_FROM}" if recipe.source else "your own"
    found = {
        "source": source,
        "classes": ", ".join(name for name, family in PIPELINES.items() if family == recipe.name) or "none",
        "version": str(recipe.version),
        "encoder": f"A {ENCODERS[recipe.encoder]} with its tokenizer.",
        "text": f"{CLEANING[recipe.clean]} {FORMS[recipe.form]}",
        "length": _describe_length(recipe),
        "pads": _describe_pads(recipe),
        "rows": f"{FINISHES[recipe.finish]} {ROWS[recipe.rows]}",
        "tensor": WIDTHS[recipe.width] + (" Zeros stand before the rows." if recipe.pads_left else ""),
        "mask": MASKS[recipe.mask],
        "null": _describe_null(recipe),
        "options": "; ".join(f"{name} ({MEANINGS[name]})" for name in recipe.options) or "none",
    }
    return found | ({"notes": recipe.notes} if recipe.notes else {})


def _describe_length(recipe: Recipe) -> str:
    if not recipe.max_length:
        return f"As long as the tokenizer allows, or {recipe.fallback_length} tokens where it names no limit."
    most = f", {recipe.longest} at most" if recipe.longest else ""
    within = ", and no more than the tokenizer allows" if recipe.within_limit else ""
    return f"{recipe.max_length} tokens, the end token included{most}{within}."


def _describe_pads(recipe: Recipe) -> str:
    if recipe.attends_pads:
        return "Tokens attend to pads, which change every row; all of them are computed."
    if recipe.rows == "real":
        return "Nothing attends to pads; none is computed."
    return "Nothing attends to pads; those whose rows are kept are computed."


def _describe_null(recipe: Recipe) -> str:
    if recipe.null == "none":
        return "None, unless a call gives one."
    if recipe.null == "zeros":
        what = "Zeros"
    else:
        what = f'The text "{recipe.null_text}" under the same recipe'
        what += "" if recipe.cleans_null else ", not cleaned"
    kept = ", all of its rows kept" if recipe.null_rows == "all" else ""
    width = "of its own width" if recipe.null_width == "own" else "as wide as the captions"
    mask = {"own": "", "zeros": ", under a mask of zeros", "positive": ", under the captions' mask"}[recipe.null_mask]
    empty = " An empty negative prompt is zeros." if recipe.zeroes_empty_null else ""
    return f"{what}{kept}, {width}{mask if recipe.mask != 'none' else ''}.{empty}"


def to_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields, and what they say."""
    fields: Mapping[str, Any] = recipe.to_mapping()
    return {**fields, "read_from": READ_FROM if recipe.source else "", "words": describe(recipe)}
