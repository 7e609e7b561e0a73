"""Documents through the encoder, a stream at a time; where one overflows, its documents once more, each by itself.

T tokens in a stream, M model dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t5enc.model.attention.flex_support import flex_block_size
from t5enc.model.attention.plan import AttentionPlan, plan_flex, plan_sdpa
from t5enc.model.encoder import Encoder
from t5enc.model.packing import make_rungs, pack_full, pack_sorted, pick_rung, round_rows
from t5enc.model.repeatability import find_floor
from t5enc.options import AttentionName
from t5enc.text.placement import finish_rows
from t5enc.text.prompts import Document


@dataclass(slots=True)
class EncoderCounters:
    """What an encoder has done since it was loaded."""

    texts: int = 0
    tokens: int = 0
    computed_texts: int = 0
    useful_tokens: int = 0
    stream_tokens: int = 0
    streams: int = 0
    retried_streams: int = 0

    @property
    def fill(self) -> float:
        """Share of the computed tokens that belong to a text."""
        return self.useful_tokens / self.stream_tokens if self.stream_tokens else 1.0


class StreamEncoder:
    """An encoder that is given streams of a token budget, and what it has done."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        device: torch.device,
        attention: AttentionName,
        token_budget: int,
        deterministic: bool = False,
        projection: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """`projection` is the weight and bias of a recipe that has one."""
        self.encoder = encoder
        self.device = device
        self.projection = projection
        self.rungs = make_rungs(token_budget)
        self.counters = EncoderCounters()
        self._attention = attention
        self._budget = token_budget
        self._floor = find_floor(encoder, token_budget) if deterministic else 1

    def pack(self, lengths: Sequence[int]) -> list[list[int]]:
        """Documents of these lengths as streams, each the places of its documents."""
        pack = pack_full if self._attention == "flex" else pack_sorted
        return pack(lengths, self._budget)

    def encode(
        self, documents: Sequence[Document], dtype: torch.dtype, on_hidden: Callable[[Tensor], None] | None = None
    ) -> tuple[Tensor, dict[int, str]]:
        """(T, M) of documents end to end in `dtype`, and the places of those that failed with the reason.

        `on_hidden` is given what is rounded to `dtype`, where none of it failed.
        """
        exact = self._forward(documents, self._plan(documents))
        hidden = exact.to(dtype)
        if torch.isfinite(hidden).all():
            if on_hidden is not None:
                on_hidden(exact)
            return hidden, {}
        del exact
        self.counters.retried_streams += 1
        parts = [self._forward([document], self._plan_sdpa([document])) for document in documents]
        reasons = {place: self._find_overflow(part, dtype) for place, part in enumerate(parts)}
        bad = {place: reason for place, reason in reasons.items() if reason is not None}
        return torch.cat(parts).to(dtype), bad

    def _find_overflow(self, hidden: Tensor, dtype: torch.dtype) -> str | None:
        """Why a text has no embedding: it left the range while it was computed, or leaves it in `dtype`."""
        if not torch.isfinite(hidden).all():
            return f"activations left the range of {str(self.encoder.dtype).removeprefix('torch.')}"
        if not torch.isfinite(hidden.to(dtype)).all():
            return f"embedding is out of the range of {str(dtype).removeprefix('torch.')}"
        return None

    def _plan(self, documents: Sequence[Document]) -> AttentionPlan:
        if self._attention == "sdpa":
            return self._plan_sdpa(documents)
        lengths = [len(document.ids) for document in documents]
        return plan_flex(
            lengths,
            pick_rung(sum(lengths), self.rungs),
            block_size=flex_block_size(self.device),
            device=self.device,
            keys=[document.keys for document in documents],
        )

    def _plan_sdpa(self, documents: Sequence[Document]) -> AttentionPlan:
        lengths = [len(document.ids) for document in documents]
        total = round_rows(max(sum(lengths), self._floor))
        return plan_sdpa(lengths, total, keys=[document.keys for document in documents])

    def _forward(self, documents: Sequence[Document], plan: AttentionPlan) -> Tensor:
        """(tokens, M) float32; the stream's padding is cut off again."""
        ids = np.zeros(plan.total, dtype=np.int64)
        flat = np.concatenate([document.ids for document in documents])
        ids[: len(flat)] = flat
        embedded = self.encoder.embed(torch.from_numpy(ids).to(self.device))
        self.counters.streams += 1
        self.counters.useful_tokens += sum(document.keys for document in documents)
        self.counters.stream_tokens += plan.total
        hidden = self.encoder(embedded, plan)[: len(flat)]
        return finish_rows(documents, hidden, embedded[: len(flat)], self.projection)
