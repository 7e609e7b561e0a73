"""What rows say of those that they refer to, and whether these are there and the same.

R rows that refer to others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t5enc.errors import OutputError
from t5enc.shards.located import Located


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The rows of `shared/` that R rows refer to, and the tokens and content keys (R, 16) that these must have.

    `name` a row that refers, and `where` the folder of what it refers to, for errors.
    """

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]
    keys: NDArray[np.uint8]
    name: Callable[[int], str]
    where: Callable[[int], str]

    def check_range(self, counts: NDArray[np.int64]) -> None:
        """OutputError for a reference to a row that is not among as many (R,) as there are."""
        for row in np.flatnonzero((self.rows < 0) | (self.rows >= counts)).tolist():
            raise OutputError(
                f"{self.name(row)}: expected its embedding as row {self.rows[row]} of {self.where(row)}, "
                f"got {counts[row]} rows there"
            )

    def check_found(self, found: Located) -> None:
        """OutputError for a row of `shared/` that has no embedding of its own, or that of another caption."""
        is_same = (found.tokens == self.tokens) & (found.keys == self.keys).all(axis=1)
        for row in np.flatnonzero(~(found.is_there & is_same)).tolist():
            got = "that of another caption" if found.is_there[row] else "none"
            raise OutputError(
                f"{self.name(row)}: expected its embedding as row {self.rows[row]} of {self.where(row)}, got {got}; "
                f"was the folder replaced by another output's?"
            )
