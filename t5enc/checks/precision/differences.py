"""Differences of hidden states to a reference's: quantiles of all elements, relative L2, the worst token.

B batch, S sequence, M model dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t5enc.checks.precision.quantiles import StreamQuantiles
from t5enc.errors import PrecisionError
from t5enc.text.tokenizer import Tokenizer

LEVELS = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)
EXCERPT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded texts, from number `first` on: ids (B, S), and a mask (B, S) that is true at real tokens."""

    first: int
    ids: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Difference:
    """Absolute differences of some elements: the quantiles at LEVELS and the largest; infinite where not finite."""

    elements: int
    quantiles: tuple[float, ...]
    largest: float
    is_exact: bool


@dataclass(frozen=True, slots=True)
class WorstToken:
    """The real token with the largest relative L2 distance, and how its text, number `text`, begins."""

    text: int
    position: int
    piece: str
    excerpt: str
    error: float


def make_batches(tokenizer: Tokenizer, texts: Sequence[str], batch_size: int) -> list[Batch]:
    """The texts in the order given, padded with id 0 to the longest of their batch."""
    ids = [torch.from_numpy(text).long() for text in tokenizer.encode(texts).ids]
    batches = []
    for first in range(0, len(ids), batch_size):
        rows = ids[first : first + batch_size]
        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        batches.append(Batch(first, padded, torch.arange(padded.shape[1]) < lengths[:, None]))
    return batches


@torch.no_grad()
def encode_batch(model: Any, batch: Batch, device: str) -> Tensor:
    """(B, S, M) hidden states in the model's dtype, on the device."""
    mask = batch.mask.long().to(device)
    return model(input_ids=batch.ids.to(device), attention_mask=mask).last_hidden_state  # type: ignore[no-any-return]


class Reference:
    """Batches with what the reference model makes of them, kept in files; the model is not kept."""

    def __init__(self, folder: Path, model: Any, batches: Sequence[Batch], device: str) -> None:
        self.folder = folder
        self.batches = batches
        self.device = device
        for batch in batches:
            hidden = encode_batch(model, batch, device).cpu()
            _check_finite(hidden, batch)
            torch.save(hidden, self._path(batch))

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch with its (B, S, M) float32 states on the device."""
        for batch in self.batches:
            yield batch, torch.load(self._path(batch), map_location=self.device, weights_only=True)

    def _path(self, batch: Batch) -> Path:
        return self.folder / f"{batch.first}.pt"


def _check_finite(hidden: Tensor, batch: Batch) -> None:
    bad = (~hidden.isfinite()).flatten(1).any(-1).nonzero().flatten().tolist()
    if bad:
        raise PrecisionError({batch.first + row: "transformers' states in float32 are not finite" for row in bad})


class Differences:
    """Differences of hidden states to the reference's, gathered batch by batch."""

    def __init__(self) -> None:
        self.real = StreamQuantiles()
        self.pads = StreamQuantiles()
        self.non_finite = 0
        self.squares = 0.0
        self.reference_squares = 0.0
        self.worst = (-1.0, 0, 0)

    @property
    def relative_l2(self) -> float:
        """Over all elements, pads included; infinite where any is not finite."""
        return math.sqrt(self.squares / self.reference_squares)

    def add(self, found: Tensor, expected: Tensor, batch: Batch) -> None:
        """Take in (B, S, M) states and the reference's, both float32 and on one device."""
        mask = batch.mask.to(found.device)
        difference = (found - expected).abs().nan_to_num(math.inf, posinf=math.inf)
        self.real.add(difference[mask])
        self.pads.add(difference[~mask])
        self.non_finite += int((~found.isfinite()).sum())
        self.squares += _sum_squares(difference)
        self.reference_squares += _sum_squares(expected)
        lengths = expected.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        errors = torch.where(mask, difference.norm(dim=-1) / lengths, -1.0)
        row, position = divmod(int(errors.argmax()), errors.shape[1])
        self.worst = max(self.worst, (float(errors.max()), batch.first + row, position), key=lambda token: token[0])

    def find_worst(self, batches: Sequence[Batch], tokenizer: Tokenizer) -> WorstToken:
        """The worst token and what it stands for."""
        error, text, position = self.worst
        batch = next(batch for batch in reversed(batches) if batch.first <= text)
        ids = batch.ids[text - batch.first].tolist()
        token = ids[position]
        piece = "(end)" if token == tokenizer.eos_id else tokenizer.decode([token]) or f"(id {token})"
        return WorstToken(text, position, piece, tokenizer.decode(ids[:EXCERPT_TOKENS]), error)


def _sum_squares(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def describe(values: StreamQuantiles) -> Difference:
    """Quantiles and the largest of one group of elements."""
    return Difference(values.count, values.quantiles(LEVELS), values.largest, values.is_exact)
