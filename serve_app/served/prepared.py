"""Prepared: the texts of one request as prompts, whichever way they came: plain, as token ids, or under a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from t5enc.recipes.recipe import Recipe
from t5enc.text.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Prepared:
    """Prompts of N texts, whether each was cut, the recipe if any, and the prompt of its null where that is asked for.

    `null` is None for a recipe whose null is zeros or nothing.
    """

    prompts: list[Prompt]
    truncated: list[bool]
    recipe: Recipe | None = None
    null: Prompt | None = None

    @property
    def all_prompts(self) -> list[Prompt]:
        """Those of the texts, and after them that of the null."""
        return [*self.prompts, *self.nulls]

    @property
    def nulls(self) -> list[Prompt]:
        """That of the null, where there is one."""
        return [] if self.null is None else [self.null]
