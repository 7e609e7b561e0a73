"""Whether an output's rows are those that a trainer's own text path makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from t5enc.errors import ConfigError, OutputError
from t5enc.output import OutputFolder
from t5enc.recipes.cleaning import CLEANERS
from t5enc.recipes.recipe import Recipe
from t5enc.storage.codecs import CODECS
from t5enc.trainers.format import Caption, Format, Given

# What the rows of a caption depend on; masks, widths and the null prompt are the trainer's own.
COMPUTED = (
    "encoder",
    "clean",
    "form",
    "max_length",
    "attends_pads",
    "rows",
    "finish",
    "zeroes_empty",
    "layout",
    "task",
)
SPACES = re.compile(" +")
# Codecs that give back the very numbers, or those numbers rounded to another format of 16 bits.
LOSSLESS = tuple(name for name, codec in CODECS.items() if codec.is_lossless)
NO_RECIPE = "none"
# Python strips it, and sentencepiece gives it a token.
SEEN_BLANK = "\x85"


def read_given(folder: OutputFolder) -> Given:
    """What an output's rows share; the recipe of a job without one is called NO_RECIPE."""
    identity, conditioning = folder.job["identity"], folder.conditioning
    recipe = Recipe(name=NO_RECIPE, max_length=0) if conditioning is None else conditioning.recipe
    return Given(
        root=folder.root,
        fingerprint=folder.job["fingerprint"],
        recipe=replace(recipe, max_length=identity["max_length"]),
        dim=folder.job["dim"],
        storage=identity["storage_dtype"],
        compute=identity["dtype"],
        null=None if conditioning is None else conditioning.null,
        tokenizer=identity.get("tokenizer", ""),
    )


def find_blank(given: Given) -> Tensor:
    """The rows of ""; ConfigError where the job's null prompt is another."""
    if given.null is None or given.recipe.null_text != "":
        raise ConfigError(f'{given.root}: expected a job whose null prompt is "", got {given.recipe.null_text!r}')
    return given.null


def check_recipe(format_: Format, given: Given) -> None:
    """OutputError unless the rows were computed as one of the format's recipes says, if it has any."""
    if not format_.recipes:
        return
    if given.recipe.name == NO_RECIPE:
        named = " or ".join(dict.fromkeys(recipe.name for recipe in format_.recipes))
        raise OutputError(f"{given.root}: {format_.name}: expected recipe {named}, got a job with --recipe none")
    if not any(not find_differences(wanted, given.recipe) for wanted in format_.recipes):
        raise OutputError(explain(format_.name, format_.recipes, given))


def check_text(wanted: str, caption: Caption, given: Given) -> str | None:
    """Why a row is not of the text that a trainer encodes, if it is not: after cleaning, but for runs of spaces.

    These are one space to T5's tokenizers.
    """
    encoded = caption.text if caption.encoded is None else caption.encoded
    if wanted == encoded:
        return None
    texts = [SPACES.sub(" ", CLEANERS[given.recipe.clean](text)).strip(" ") for text in (wanted, encoded)]
    return None if texts[0] == texts[1] else f"the trainer encodes {wanted[:80]!r}, the job encoded {encoded[:80]!r}"


def check_stripped(caption: Caption, given: Given) -> str | None:
    """The same where the trainer strips: blanks at the ends of a text are nothing to T5's tokenizers, but for one."""
    encoded = caption.text if caption.encoded is None else caption.encoded
    stripped = encoded.strip()
    before, _, after = encoded.partition(stripped) if stripped else ("", "", encoded)
    kept = encoded if SEEN_BLANK in before + after else stripped
    return check_text(caption.text.strip(), replace(caption, encoded=kept), given)


def find_differences(wanted: Recipe, found: Recipe) -> dict[str, tuple[object, object]]:
    """Fields that rows depend on -> (wanted, found), where they differ."""
    pairs = {name: (getattr(wanted, name), getattr(found, name)) for name in COMPUTED}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def explain(name: str, wanted: Sequence[Recipe], given: Given) -> str:
    """What was expected, what was found, and in which fields the nearest differs."""
    expected = " or ".join(f"recipe {recipe.name} at {recipe.max_length}" for recipe in wanted)
    nearest = min((find_differences(recipe, given.recipe) for recipe in wanted), key=len)
    differences = ", ".join(f"{field}: expected {pair[0]}, got {pair[1]}" for field, pair in nearest.items())
    found = f"{given.recipe.name} at {given.recipe.max_length}"
    return f"{given.root}: {name}: expected {expected}, got {found} ({differences})"


def check_storage(format_: Format, given: Given, *, allow_lossy: bool) -> str | None:
    """What is said of numbers that are not the trainer's to the bit; ConfigError for lossy ones unless allowed.

    Nothing is said of those that were never a trainer's.
    """
    if given.storage not in LOSSLESS:
        if not allow_lossy:
            raise ConfigError(
                f"{given.root}: expected numbers as they were computed ({', '.join(LOSSLESS)}), got {given.storage}, "
                f"which rounds them to 8 bits; --allow-lossy exports them"
            )
        return f"numbers were stored as {given.storage}: they are near the trainer's, and not the same"
    if not format_.recipes or (given.compute == "bfloat16" and given.storage in ("bfloat16", "bf16z", "float32")):
        return None
    return (
        f"computed in {given.compute}, stored as {given.storage}: rounded to what the trainer keeps. "
        f"--dtype bfloat16 --storage-dtype bfloat16 gives its very bytes"
    )
