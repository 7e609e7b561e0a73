"""Rows that the encoder computed, finished as a recipe says and handed back to the text that each belongs to.

Each prompt's lie end to end; equal documents are computed once for all their places. N texts, T rows of all of them or
tokens of a stream, M model dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from t5enc.recipes.recipe import Finish
from t5enc.text.prompts import Document, Prompt

NORM_EPS = 1e-6


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


def find_kept(groups: Sequence[Sequence[PlacedDocument]]) -> NDArray[np.int64]:
    """Those of the T rows of a stream that are some text's."""
    kept: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    start = 0
    for group in groups:
        document = group[0].document
        kept.append(np.arange(start, start + document.kept))
        start += len(document.ids)
    return np.concatenate(kept)


def finish_rows(
    documents: Sequence[Document], hidden: Tensor, embedded: Tensor, projection: tuple[Tensor, Tensor] | None
) -> Tensor:
    """(T, M) hidden states of documents end to end, whose tokens' embeddings were (T, M) -> what pipelines pass on."""
    if all(document.finish == "none" for document in documents):
        return hidden
    lengths = [len(document.ids) for document in documents]
    parts = zip(documents, torch.split(hidden, lengths), torch.split(embedded, lengths), strict=True)
    return torch.cat([_finish(document.finish, rows, before, projection) for document, rows, before in parts])


def _finish(kind: Finish, hidden: Tensor, embedded: Tensor, projection: tuple[Tensor, Tensor] | None) -> Tensor:
    """What two families do to hidden states before they are anyone's embeddings.

    "add_norms" (LongCat) adds both, each normed over M without weights. "project" (Stable Audio) is a linear layer
    with a bias, where the pipeline has one: it has none where the widths are equal.
    """
    if kind == "add_norms":
        return _norm(hidden) + _norm(embedded)
    if kind == "project" and projection is not None:
        weight, bias = projection
        return F.linear(hidden, weight, bias)
    return hidden


def _norm(rows: Tensor) -> Tensor:
    return F.layer_norm(rows, rows.shape[-1:], eps=NORM_EPS)
