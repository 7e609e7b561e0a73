"""Where the rows of documents go: each prompt's end to end, and equal documents computed once for all their places.

N texts, T rows of all of them, M model dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t5enc.text.prompts import Document, Prompt


class PlacedDocument(NamedTuple):
    """A document, the text that it is of, and where its rows stand among those of all texts."""

    document: Document
    text: int
    start: int


def place_documents(prompts: Sequence[Prompt], offsets: NDArray[np.int64]) -> Iterator[PlacedDocument]:
    """Every document of N texts, whose rows begin at `offsets` (N + 1,)."""
    for text, prompt in enumerate(prompts):
        start = int(offsets[text])
        for document in prompt.documents:
            yield PlacedDocument(document, text, start)
            start += document.kept


def group_identical(documents: Iterable[PlacedDocument]) -> list[list[PlacedDocument]]:
    """Equal documents together, in order of first appearance."""
    groups: dict[bytes, list[PlacedDocument]] = {}
    for placed in documents:
        groups.setdefault(placed.document.key, []).append(placed)
    return list(groups.values())


def scatter(hidden: Tensor, groups: Sequence[Sequence[PlacedDocument]], values: Tensor) -> None:
    """Copy the kept rows of each document of a stream to their places, and to those of its copies."""
    hidden = hidden.to(values.device)
    start = 0
    for group in groups:
        for document, _, place in group:
            values[place : place + document.kept] = hidden[start : start + document.kept]
        start += len(group[0].document.ids)
