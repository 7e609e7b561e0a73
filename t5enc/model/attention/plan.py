"""Who attends to whom: plans of a flat stream for Flex or SDPA, and of a padded batch.

T tokens in the stream, B batch, S sequence, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from t5enc.model.attention.flex_support import flex_block_size
from t5enc.model.attention.masks import document_mask, number_batch, number_mask


class Group(NamedTuple):
    """Some `documents` of `length` tokens each, from token `start` of the stream on.

    The first `keys` tokens of a document are what all of them attend to; the others are pads.
    """

    start: int
    documents: int
    length: int
    keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """Who attends to whom.

    In a stream: a block mask for Flex, or groups of equal length for SDPA. In a padded batch: `is_padded`, with a mask
    that broadcasts to (B, H, S, S), of booleans or of numbers to add.

    A query that sees no key gets, as softmax over equal scores has it, the mean of its row: `keyless` marks such
    queries (T,) of a Flex stream, and `has_keys`, (B, 1, S or 1, 1), is 0 there and else 1 where the dtype is too
    narrow for a mask to make all scores equal. Attention weights come of an `is_eager` plan alone.
    """

    total: int
    groups: tuple[Group, ...] = ()
    block_mask: BlockMask | None = None
    keyless: Tensor | None = None
    is_padded: bool = False
    mask: Tensor | None = None
    has_keys: Tensor | None = None
    is_eager: bool = False

    def to(self, device: torch.device, non_blocking: bool = False) -> AttentionPlan:
        """The same on a device: accelerate moves the arguments of each block to where the block is."""
        tensors = {name: getattr(self, name) for name in ("block_mask", "keyless", "mask", "has_keys")}
        moved = {name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **moved)

    @property
    def longest(self) -> int:
        """Length of the longest document that SDPA will see."""
        return max([0, *(group.length for group in self.groups)])


def plan_flex(
    lengths: Sequence[int],
    total: int,
    *,
    block_size: int,
    device: torch.device,
    keys: Sequence[int] | None = None,
) -> AttentionPlan:
    """Documents in stream order, the stream padded to `total` tokens; `keys` as for `plan_sdpa`."""
    mask = document_mask(lengths, total, block_size=block_size, device=device, keys=keys)
    return AttentionPlan(total=total, block_mask=mask)


def plan_sdpa(lengths: Sequence[int], total: int | None = None, *, keys: Sequence[int] | None = None) -> AttentionPlan:
    """Documents in stream order; neighbours of equal length become one batch.

    `keys` says how many tokens of each document are attended to, all of them by default: those after are its pads.
    """
    groups: list[Group] = []
    start = 0
    for length, seen in zip(lengths, keys or lengths, strict=True):
        if groups and groups[-1][2:] == (length, seen):
            groups[-1] = groups[-1]._replace(documents=groups[-1].documents + 1)
        else:
            groups.append(Group(start, 1, length, seen))
        start += length
    return AttentionPlan(total=start if total is None else total, groups=tuple(groups))


def plan_padded(
    batch: int,
    length: int,
    mask: Tensor | None,
    dtype: torch.dtype,
    *,
    is_eager: bool = False,
) -> AttentionPlan:
    """A batch of B rows of S tokens that computes in `dtype`; `mask` broadcasts to (B, H, S, S)."""
    is_narrow = dtype == torch.float16 and mask is not None and mask.dtype == torch.bool
    return AttentionPlan(
        total=batch * length,
        groups=(Group(0, batch, length, length),),
        is_padded=True,
        mask=mask,
        has_keys=mask.any(-1, keepdim=True).to(dtype) if is_narrow and mask is not None else None,
        is_eager=is_eager,
    )


def plan_flex_batch(
    mask: Tensor | None, batch: int, length: int, total: int, device: torch.device
) -> AttentionPlan | None:
    """A batch of B rows of S tokens end to end in a stream of `total` tokens, for a mask as `plan_padded` has it.

    None for a mask that differs between heads, holds numbers to add, or is no packing of documents.
    """
    if mask is not None and (mask.dtype != torch.bool or mask.shape[1] != 1):
        return None
    seen = None if mask is None else mask[:, 0].expand(batch, -1, -1).cpu().numpy()
    numbers = number_batch(seen[:, 0] if seen is not None and seen.shape[1] == 1 else seen, batch, length, total)
    if numbers is None:
        return None
    block_mask = number_mask(numbers, block_size=flex_block_size(device), device=device)
    keyless = None if numbers.keyless is None else torch.from_numpy(numbers.keyless).to(device)
    return AttentionPlan(total=total, block_mask=block_mask, keyless=keyless)
