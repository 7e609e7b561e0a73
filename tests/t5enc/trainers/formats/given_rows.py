"""A caption and what an output's rows share, made up for formats."""

from __future__ import annotations

from typing import Any

from t5enc.recipes.families import WAN
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.format import Caption, Given


def make_given(recipe: Recipe = WAN, *, dim: int = 8, storage: str = "float16") -> Given:
    return Given(root="out", fingerprint="f", recipe=recipe, dim=dim, storage=storage, compute="bfloat16")


def make_caption(
    path: str,
    *,
    text: str = "a red bird",
    num_tokens: int = 5,
    row: int = 0,
    encoded: str | None = None,
    **columns: Any,
) -> Caption:
    return Caption(row=row, text=text, path=path, num_tokens=num_tokens, columns=columns, encoded=encoded)
