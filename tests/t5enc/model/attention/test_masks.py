"""The document mask against a plain reading of its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from t5enc.model.attention.masks import document_mask, number_batch, number_mask

CPU = torch.device("cpu")
BLOCK = 8


def dense_mask(lengths: list[int], total: int) -> Tensor:
    """(T, T) whether a query may see a key, by definition."""
    documents = torch.full((total,), -1)
    documents[: sum(lengths)] = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return (documents[:, None] == documents) & (documents[:, None] >= 0)


def listed_blocks(counts: Tensor | None, indices: Tensor | None) -> Tensor:
    """(blocks, blocks) which key blocks a query block lists; twice the same would count twice."""
    assert counts is not None
    assert indices is not None
    is_listed = torch.arange(indices.shape[-1]) < counts[0, 0, :, None]
    listed = torch.zeros(indices.shape[-2:], dtype=torch.int64)
    return listed.scatter_add(1, indices[0, 0].long(), is_listed.long())


def in_blocks(dense: Tensor) -> Tensor:
    """(blocks, blocks, BLOCK, BLOCK), what lies beyond the stream repeated from its edge."""
    count = -(-len(dense) // BLOCK)
    grid = torch.arange(count * BLOCK).clamp(max=len(dense) - 1)
    return dense[grid][:, grid].view(count, BLOCK, count, BLOCK).transpose(1, 2)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12), padding=st.integers(0, 40))
def test_blocks_are_full_partial_or_absent_as_the_dense_mask_says(lengths: list[int], padding: int) -> None:
    total = sum(lengths) + padding
    mask = document_mask(lengths, total, block_size=BLOCK, device=CPU)
    blocks = in_blocks(dense_mask(lengths, total))
    full = listed_blocks(mask.full_kv_num_blocks, mask.full_kv_indices)
    partial = listed_blocks(mask.kv_num_blocks, mask.kv_indices)
    assert torch.equal(full.bool(), blocks.all(-1).all(-1))
    assert torch.equal(partial.bool(), blocks.any(-1).any(-1) & ~full.bool())
    assert (full + partial).max() <= 1


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), padding=st.integers(0, 20))
def test_the_mask_function_is_the_dense_mask(lengths: list[int], padding: int) -> None:
    total = sum(lengths) + padding
    mask = document_mask(lengths, total, block_size=BLOCK, device=CPU)
    rows = torch.arange(total)
    zero = torch.tensor(0)
    assert torch.equal(mask.mask_mod(zero, zero, rows[:, None], rows), dense_mask(lengths, total))


@pytest.mark.parametrize("lengths", [[1], [64], [5, 3, 56], [63, 1], [20, 20, 23]])
def test_the_blocks_are_those_that_pytorch_itself_would_find(lengths: list[int]) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    mask = document_mask(lengths, 64, block_size=BLOCK, device=CPU)
    expected = create_block_mask(mask.mask_mod, 1, 1, 64, 64, device="cpu", BLOCK_SIZE=BLOCK)
    for part in ("kv", "full_kv"):
        assert torch.equal(list_part(mask, part), list_part(expected, part))


@st.composite
def padded_masks(draw: st.DrawFn) -> Tensor:
    """(B, S) padding anywhere, or (B, S, S) documents packed side by side, some tokens in none."""
    batch, length = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    numbers = torch.tensor(draw(st.lists(st.integers(-1, 3), min_size=batch * length, max_size=batch * length)))
    numbers = numbers.view(batch, length)
    if draw(st.booleans()):
        return numbers >= 0
    return (numbers[:, :, None] == numbers[:, None, :]) & (numbers[:, None, :] >= 0)


@given(mask=padded_masks(), padding=st.integers(0, 30))
def test_batches_are_masked_as_their_own_mask_says(mask: Tensor, padding: int) -> None:
    """A query that sees nothing sees its whole row, with equal scores."""
    batch, length = mask.shape[:2]
    total = batch * length + padding
    numbers = number_batch(mask.numpy(), batch, length, total)
    assert numbers is not None
    square = mask[:, None].expand(-1, length, -1) if mask.dim() == 2 else mask
    seen = square | ~square.any(-1, keepdim=True)
    expected = torch.zeros(total, total, dtype=torch.bool)
    expected[: batch * length, : batch * length] = torch.block_diag(*seen.int()).bool()
    found = number_mask(numbers, block_size=BLOCK, device=CPU)
    rows, zero = torch.arange(total), torch.tensor(0)
    assert torch.equal(found.mask_mod(zero, zero, rows[:, None], rows), expected)
    keyless = torch.zeros(total, dtype=torch.bool)
    keyless[: batch * length] = ~square.any(-1).flatten()
    assert torch.equal(torch.from_numpy(numbers.keyless) if numbers.keyless is not None else keyless, keyless)
    assert (numbers.keyless is None) == (not keyless.any())
    blocks = in_blocks(expected)
    full, partial = listed_blocks(found.full_kv_num_blocks, found.full_kv_indices), list_part(found, "kv")
    assert not (full.bool() & ~blocks.all(-1).all(-1)).any()
    assert not (blocks.any(-1).any(-1) & ~(full + partial).bool()).any()
    assert (full + partial).max() <= 1


def test_a_mask_that_no_packing_explains_has_no_numbers() -> None:
    assert number_batch(torch.ones(1, 4, 4, dtype=torch.bool).tril().numpy(), 1, 4, 16) is None


def list_part(mask: BlockMask, part: str) -> Tensor:
    return listed_blocks(getattr(mask, f"{part}_num_blocks"), getattr(mask, f"{part}_indices"))
