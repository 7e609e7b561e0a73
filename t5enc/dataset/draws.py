"""What a sampler hands to a dataset."""

from __future__ import annotations

from typing import NamedTuple


class Draw(NamedTuple):
    """A row that was drawn; a dropped one has the null prompt's rows in place of its own, and keeps columns and key."""

    row: int
    dropped: bool = False
