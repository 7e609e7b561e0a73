"""How many tokens of a padded caption are its own, which rows that hold pads as well do not say."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from t5enc.checkpoint.builtin import is_builtin, open_builtin
from t5enc.errors import ConfigError
from t5enc.recipes.forms import make_texts
from t5enc.text.tokenizer import Tokenizer, load_tokenizer
from t5enc.trainers.format import Caption, Given


def count_real_tokens(caption: Caption, given: Given, tokenizer: str, mask: Tensor | None) -> int:
    """Tokens before the pads, the end token among them.

    They are the rows where pads have none. Otherwise the tokenizer says how many, or else the mask (S,) of another file
    of the same caption; ConfigError where there is neither, or the tokenizer is not the job's.
    """
    recipe = given.recipe
    if recipe.rows == "real":
        return caption.num_tokens
    if tokenizer:
        texts = make_texts(recipe, caption.text if caption.encoded is None else caption.encoded)
        return sum(len(ids) for ids in open_tokenizer(tokenizer, given).encode(texts).ids)
    if mask is not None and mask.shape == (recipe.max_length,):
        return int(mask.sum())
    raise ConfigError(
        f"tokenizer: expected a model by whose tokenizer the mask of a caption is found: rows of {recipe.name} hold "
        f"its pads, too, and do not say where they begin"
    )


def open_tokenizer(name: str, given: Given) -> Tokenizer:
    """The tokenizer of a folder, a hub id or a built-in model; ConfigError where it is not the job's."""
    loaded = _load(name, given.recipe.max_length)
    if given.tokenizer not in ("", loaded.fingerprint):
        raise ConfigError(f"tokenizer: expected that of the job, {given.tokenizer[:16]}, got {name}")
    return loaded


@lru_cache(maxsize=2)
def _load(name: str, length: int) -> Tokenizer:
    source = open_builtin(name).tokenizer_source if is_builtin(name) else name
    return load_tokenizer(source, max_length=length)
