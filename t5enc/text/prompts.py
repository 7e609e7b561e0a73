"""Prompt: one caption as it is encoded: its documents, what of them is attended to, and which rows are kept.

S tokens of a document.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t5enc.recipes.recipe import Finish

TokenIds = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """`ids` (S,), computed pads included; all attend to the first `keys` of them, and the first `kept` are kept.

    `finish` is what is done to the rows.
    """

    ids: TokenIds
    keys: int
    kept: int
    finish: Finish = "none"

    @classmethod
    def of(cls, ids: TokenIds) -> Document:
        """A text without pads."""
        return cls(ids, len(ids), len(ids))

    @property
    def key(self) -> bytes:
        """Equal for documents whose rows are equal, however many of them are kept."""
        return self.finish.encode() + self.keys.to_bytes(4, "little") + self.ids.tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """The documents of a caption; its embedding is their kept rows end to end."""

    documents: tuple[Document, ...]

    @classmethod
    def of(cls, ids: TokenIds) -> Prompt:
        """A text without pads."""
        return cls((Document.of(ids),))

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return sum(len(document.ids) for document in self.documents)

    @property
    def rows(self) -> int:
        """Rows of its embedding."""
        return sum(document.kept for document in self.documents)

    @property
    def key(self) -> bytes:
        """Equal for prompts of equal embeddings."""
        parts = [document.kept.to_bytes(4, "little") + document.key for document in self.documents]
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def count_tokens(prompts: Iterable[Prompt]) -> int:
    """Tokens that are computed for all of them."""
    return sum(prompt.tokens for prompt in prompts)
