"""What transformers gives as hidden_states, of the residuals that the engine hands out."""

from __future__ import annotations

import torch
from torch import Tensor


def select_states(states: list[Tensor], last: Tensor, wanted: bool | int | list[int]) -> tuple[Tensor | None, ...]:
    """Embeddings and the residual after each block but the last, whose place the final states take."""
    limits = torch.finfo(last.dtype)
    found: list[Tensor | None] = [*(_clamp(state, limits).to(last.dtype) for state in states[:-1]), last]
    if wanted is True:
        return tuple(found)
    asked = [wanted] if isinstance(wanted, int) else wanted
    places = {place % len(found) for place in asked if -len(found) <= place < len(found)}
    return tuple(state if place in places else None for place, state in enumerate(found))


def _clamp(state: Tensor, limits: torch.finfo) -> Tensor:
    """Within the range of the dtype it will have: the residual may leave float16's, as transformers' may not."""
    return state.clamp(limits.min, limits.max) if limits.bits < 32 else state
