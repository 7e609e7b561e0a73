"""Cleaning that needs no library."""

from __future__ import annotations

import re

QUOTES = re.compile('["“”‘’]')
SPACES = re.compile(r"\s+")


def keep(text: str) -> str:
    """The text as it stands."""
    return text


def lower(text: str) -> str:
    """Lower case, without space at the ends: what DeepFloyd's family does where it does not clean."""
    return text.lower().strip()


def clean_longcat(text: str) -> str:
    """LongCat: lower case, no quotes, single spaces."""
    return SPACES.sub(" ", QUOTES.sub(" ", text.lower())).strip()
