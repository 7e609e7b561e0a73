"""Whether tensors that were rebuilt from kept rows are those of a pipeline.

N captions, W width, M model dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t5enc.recipes.conditioning import PipelineInputs

# Attention kernels differ by up to 2e-5.
TOLERANCE = 1e-4


def assert_agree(found: PipelineInputs, expected: PipelineInputs) -> None:
    """Masks are equal in value, shape and dtype, embeddings close wherever the mask keeps a row, else zero."""
    _assert_pair(found.prompt_embeds, found.prompt_mask, expected.prompt_embeds, expected.prompt_mask)
    assert (found.null_embeds is None) == (expected.null_embeds is None)
    if found.null_embeds is not None and expected.null_embeds is not None:
        _assert_pair(found.null_embeds, found.null_mask, expected.null_embeds, expected.null_mask)


def _assert_pair(found: Tensor, mask: Tensor | None, expected: Tensor, expected_mask: Tensor | None) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert (mask is None) == (expected_mask is None)
    if mask is None or expected_mask is None:
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
        return
    assert mask.dtype == expected_mask.dtype
    assert torch.equal(mask, expected_mask)
    kept = find_kept(mask, found)
    torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=TOLERANCE)
    assert not found[~kept].any()


def find_kept(mask: Tensor, embeds: Tensor) -> Tensor:
    """(N, W) of a mask (N, W), or (N, W M) as AuraFlow has it."""
    return mask.reshape(len(mask), embeds.shape[1], -1)[:, :, 0] != 0
