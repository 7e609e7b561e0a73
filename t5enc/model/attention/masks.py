"""Masks of a flat stream as Flex attention's block mask.

T tokens in the stream, B batch, S sequence.

Who sees whom is written as two rows of numbers: a query sees the keys of its own number. Documents end to end, padded
batches and packing masks all come down to that, and block lists follow from it in O(blocks): evaluating a mask over
T x T, as `create_block_mask` does, takes longer than the attention itself at T = 16384.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

Ids = NDArray[np.int32]
# Numbers of queries and keys that belong to nothing; they differ, so that neither sees the other.
NO_QUERY, NO_KEY, KEYLESS = -1, -2, -3


class Numbers(NamedTuple):
    """(T,) the number of each query and of each key; a KEYLESS query sees all keys of its row."""

    queries: Ids
    keys: Ids
    rows: Ids | None = None

    @property
    def keyless(self) -> NDArray[np.bool_] | None:
        """(T,) the queries that see no key of their own, if there are any."""
        return None if self.rows is None else self.queries == KEYLESS


def document_mask(
    lengths: Sequence[int],
    total: int,
    *,
    block_size: int,
    device: torch.device,
    keys: Sequence[int] | None = None,
) -> BlockMask:
    """Every token attends to its own document, the first `keys` tokens of it where they are given.

    Tokens past the last document have no key at all, so their attention is zero and no later sum is spoilt.
    """
    queries = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    numbers = Numbers(queries, queries if keys is None else _hide_pads(queries, lengths, keys))
    return number_mask(_pad(numbers, total), block_size=block_size, device=device)


def _hide_pads(documents: Ids, lengths: Sequence[int], keys: Sequence[int]) -> Ids:
    """The numbers of a stream's tokens as keys: that of their document, or none for its pads."""
    places = np.arange(len(documents)) - np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    return np.where(places < np.repeat(keys, lengths), documents, NO_KEY).astype(np.int32)


def number_batch(mask: NDArray[np.bool_] | None, batch: int, length: int, total: int) -> Numbers | None:
    """Numbers of a padded batch laid end to end in a stream of `total` tokens, or None where there are no such.

    `mask` is (B, S), the keys that every query of a row sees, or (B or 1, S, S), query by key. The latter has numbers
    if queries that see a key in common see all keys in common, as packed documents do.
    """
    if mask is None:
        mask = np.ones((batch, length), dtype=np.bool_)
    first = np.arange(batch, dtype=np.int32)[:, None] * length
    if mask.ndim == 2:
        keys = np.where(mask, first, NO_KEY)
        queries = np.where(mask.any(-1, keepdims=True), first, KEYLESS) + np.zeros((1, length), np.int32)
    else:
        found = _number_square(mask)
        if found is None:
            return None
        queries, keys = (np.where(part >= 0, part + first, part) for part in found)
    rows = np.broadcast_to(first, (batch, length)) if (queries == KEYLESS).any() else None
    parts = (None if part is None else part.astype(np.int32).reshape(-1) for part in (queries, keys, rows))
    return _pad(Numbers(*parts), total)  # type: ignore[arg-type]


def _number_square(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """A key's number is the first query that sees it, a query's that of the first key it sees."""
    keys = np.where(mask.any(-2), mask.argmax(-2), NO_KEY)
    first_key = mask.argmax(-1)
    queries = np.where(mask.any(-1), np.take_along_axis(keys, first_key, axis=-1), KEYLESS)
    return (queries, keys) if np.array_equal(queries[..., :, None] == keys[..., None, :], mask) else None


def _pad(numbers: Numbers, total: int) -> Numbers:
    def pad(part: Ids, fill: int) -> Ids:
        return np.concatenate([part, np.full(total - len(part), fill, dtype=np.int32)])

    rows = None if numbers.rows is None else pad(numbers.rows, NO_QUERY)
    return Numbers(pad(numbers.queries, NO_QUERY), pad(numbers.keys, NO_KEY), rows)


def number_mask(numbers: Numbers, *, block_size: int, device: torch.device) -> BlockMask:
    """The block mask under which each query sees the keys of its number."""
    partial, full = _block_lists(numbers, block_size)
    queries, keys = (torch.from_numpy(part).to(device) for part in numbers[:2])
    rows = None if numbers.rows is None else torch.from_numpy(numbers.rows).to(device)

    def same_number(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return queries[query] == keys[key]

    def same_number_or_row(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert rows is not None
        return (queries[query] == keys[key]) | ((queries[query] == KEYLESS) & (rows[query] == rows[key]))

    counts, indices, full_counts, full_indices = (_to_blocks(part, device) for part in (*partial, *full))
    return BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=block_size,
        mask_mod=same_number if rows is None else same_number_or_row,
        seq_lengths=(len(numbers.queries), len(numbers.queries)),
        compute_q_blocks=False,
    )


BlockList = tuple[Ids, Ids]


def _block_lists(numbers: Numbers, block_size: int) -> tuple[BlockList, BlockList]:
    """(counts, indices) of the key blocks a query block meets in part, and those wholly of its one number."""
    lows, highs = _key_spans(numbers)
    starts = np.arange(0, len(lows), block_size)
    first = np.minimum.reduceat(np.where(highs > 0, lows, len(lows)), starts) // block_size
    last = (np.maximum.reduceat(highs, starts) - 1) // block_size
    of_queries, of_keys = (_uniform(part, starts) for part in numbers[:2])
    partial, full = _empty_list(len(starts)), _empty_list(len(starts))
    for block in range(len(starts)):
        keys = np.arange(first[block], last[block] + 1)
        inside = (of_keys[keys] == of_queries[block]) & (of_queries[block] >= 0)
        _fill(partial, block, keys[~inside])
        _fill(full, block, keys[inside])
    return partial, full


def _key_spans(numbers: Numbers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(T,) where the keys that a query sees begin, and where they end; nowhere is 0 and 0."""
    lows, highs = _spans_of(numbers.queries, numbers.keys)
    if numbers.rows is not None:
        is_keyless = numbers.queries == KEYLESS
        row_lows, row_highs = _spans_of(numbers.rows, numbers.rows)
        lows, highs = np.where(is_keyless, row_lows, lows), np.where(is_keyless, row_highs, highs)
    return lows, highs


def _spans_of(wanted: Ids, places: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First place and one past the last at which each wanted number stands."""
    size = int(max(wanted.max(initial=0), places.max(initial=0))) + 1
    first, end = np.zeros(size, np.int64), np.zeros(size, np.int64)
    known = np.flatnonzero(places >= 0)
    first[places[known][::-1]] = known[::-1]
    end[places[known]] = known + 1
    place = np.maximum(wanted, 0)
    return np.where(wanted >= 0, first[place], 0), np.where(wanted >= 0, end[place], 0)


def _uniform(numbers: Ids, starts: NDArray[np.int64]) -> Ids:
    """The one number of each block, or NO_QUERY where it has several or none."""
    low, high = np.minimum.reduceat(numbers, starts), np.maximum.reduceat(numbers, starts)
    return np.where((low == high) & (low >= 0), low, NO_QUERY).astype(np.int32)


def _empty_list(count: int) -> BlockList:
    return np.zeros(count, np.int32), np.zeros((count, count), np.int32)


def _fill(blocks: BlockList, row: int, keys: NDArray[np.int64]) -> None:
    counts, indices = blocks
    counts[row] = len(keys)
    indices[row, : len(keys)] = keys


def _to_blocks(part: Ids, device: torch.device) -> Tensor:
    return torch.from_numpy(part)[None, None].to(device)
