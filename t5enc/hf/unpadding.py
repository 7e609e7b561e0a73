"""The real tokens of a padded batch, laid end to end, and back.

B batch, S sequence, M model dim, N rows with tokens, T tokens in all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t5enc.errors import InputError
from t5enc.model.attention.flex_support import flex_block_size
from t5enc.model.attention.plan import AttentionPlan, plan_flex, plan_sdpa
from t5enc.model.packing import round_rung


@dataclass(frozen=True, slots=True)
class Rows:
    """Where each row's tokens stand: from `starts` on, `lengths` of them; rows of equal length come together."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    width: int

    @property
    def order(self) -> NDArray[np.int64]:
        """Rows that have tokens, by length."""
        order = np.argsort(self.lengths, kind="stable")
        return order[self.lengths[order] > 0]

    def plan_groups(self) -> AttentionPlan:
        """SDPA over rows of equal length."""
        return plan_sdpa(self.lengths[self.order].tolist())

    def plan_flex(self, device: torch.device) -> AttentionPlan:
        """Flex over all rows, the stream padded to a rung."""
        lengths = self.lengths[self.order].tolist()
        return plan_flex(lengths, round_rung(sum(lengths)), block_size=flex_block_size(device), device=device)

    def _places(self, starts: NDArray[np.int64], width: int) -> Tensor:
        """(T,) index of each token in a flattened batch of that width, in the order of the stream."""
        places = [row * width + starts[row] + np.arange(self.lengths[row]) for row in self.order]
        return torch.from_numpy(np.concatenate([*places, np.empty(0, np.int64)]))

    def gather(self, embeds: Tensor) -> Tensor:
        """(B, S, M) -> (T, M)."""
        return embeds.flatten(0, 1)[self._places(self.starts, self.width).to(embeds.device)]

    def scatter(self, hidden: Tensor, *, skips: bool) -> Tensor:
        """(T, M) -> (B, S, M) with zeros at pads, or with `skips` (B, longest, M), each row's tokens first."""
        starts = np.zeros_like(self.starts) if skips else self.starts
        width = int(self.lengths.max(initial=0)) if skips else self.width
        places = self._places(starts, width).to(hidden.device)
        padded = hidden.new_zeros(len(self.starts) * width, hidden.shape[-1])
        filled = padded.index_copy(0, places, hidden[: len(places)])
        return filled.view(len(self.starts), width, hidden.shape[-1])

    def clear_pads(self, hidden: Tensor, *, skips: bool) -> Tensor:
        """The same from a batch whose pads were computed."""
        return self.scatter(self.gather(hidden), skips=skips)


def find_rows(padding: Tensor | None, mask: Tensor | None) -> Rows | None:
    """Rows of a (B, S) padding mask; None where nothing is masked.

    Pads may stand left or right of the tokens, not between them: positions in a row would change.
    """
    if padding is None:
        if mask is not None:
            raise InputError("pad_outputs zero and skip: expected an attention_mask (batch, sequence), got another")
        return None
    real = padding.bool().cpu().numpy()
    lengths = real.sum(-1)
    starts = real.argmax(-1)
    ends = real.shape[1] - real[:, ::-1].argmax(-1)
    if (lengths > 0).any() and not ((ends - starts == lengths) | (lengths == 0)).all():
        raise InputError("pad_outputs zero and skip: expected pads before or after a row's tokens, got some between")
    return Rows(starts, lengths, real.shape[1])
