"""What pipelines do to a caption before it is tokenized, one module a routine; names are those that recipes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from t5enc.recipes.cleaning.deepfloyd import clean_deepfloyd
from t5enc.recipes.cleaning.plain import clean_longcat, keep, lower
from t5enc.recipes.cleaning.wan import clean_wan
from t5enc.recipes.recipe import CleanName

CLEANERS: Mapping[CleanName, Callable[[str], str]] = {
    "none": keep,
    "lower": lower,
    "if": clean_deepfloyd,
    "wan": clean_wan,
    "longcat": clean_longcat,
}
