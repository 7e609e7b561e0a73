"""The document mask of a flat stream as Flex attention's block mask.

T tokens in the stream. Built from the documents' offsets in O(blocks): evaluating the mask over T x T, as
`create_block_mask` does, takes longer than the attention itself at T = 16384.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask


def document_mask(lengths: Sequence[int], total: int, *, block_size: int, device: torch.device) -> BlockMask:
    """Every token attends to its own document; tokens past the last document attend to nothing.

    Those pad queries have no key at all, so their attention is zero and no later sum is spoilt.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    documents = np.full(total, -1, dtype=np.int32)
    documents[: offsets[-1]] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    partial, full = _block_lists(documents, offsets, block_size)
    ids = torch.from_numpy(documents).to(device)

    def same_document(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (ids[query] == ids[key]) & (ids[query] >= 0)

    counts, indices, full_counts, full_indices = (_to_blocks(part, device) for part in (*partial, *full))
    return BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=block_size,
        mask_mod=same_document,
        seq_lengths=(total, total),
        compute_q_blocks=False,
    )


BlockList = tuple[NDArray[np.int32], NDArray[np.int32]]


def _block_lists(
    documents: NDArray[np.int32], offsets: NDArray[np.int64], block_size: int
) -> tuple[BlockList, BlockList]:
    """(counts, indices) of the key blocks a query block meets in part, and those wholly of its one document."""
    count = -(-len(documents) // block_size)
    starts = np.arange(count) * block_size
    first = documents[starts]
    last = documents[np.minimum(starts + block_size, len(documents)) - 1]
    whole = (first == last) & (first >= 0)
    partial, full = _empty_list(count), _empty_list(count)
    for block in np.flatnonzero(first >= 0):
        final = last[block] if last[block] >= 0 else len(offsets) - 2
        keys = np.arange(offsets[first[block]] // block_size, (offsets[final + 1] - 1) // block_size + 1)
        inside = whole[block] & whole[keys] & (first[keys] == first[block])
        _fill(partial, block, keys[~inside])
        _fill(full, block, keys[inside])
    return partial, full


def _empty_list(count: int) -> BlockList:
    return np.zeros(count, np.int32), np.zeros((count, count), np.int32)


def _fill(blocks: BlockList, row: np.intp, keys: NDArray[np.int64]) -> None:
    counts, indices = blocks
    counts[row] = len(keys)
    indices[row, : len(keys)] = keys


def _to_blocks(part: NDArray[np.int32], device: torch.device) -> Tensor:
    return torch.from_numpy(part)[None, None].to(device)
