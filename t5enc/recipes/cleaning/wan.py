"""Wan's cleaning: repaired text, entities decoded, single spaces; case is kept."""

from __future__ import annotations

from t5enc.recipes.cleaning.plain import SPACES
from t5enc.recipes.cleaning.repair import fix_text, unescape_twice


def clean_wan(text: str) -> str:
    """As WanPipeline cleans with ftfy installed; without ftfy diffusers would silently encode other text."""
    return SPACES.sub(" ", unescape_twice(fix_text(text)).strip()).strip()
