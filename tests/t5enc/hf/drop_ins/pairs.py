"""A drop-in and transformers' own model of one checkpoint, batches for both, and how far apart they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import t5enc.hf
from t5enc.hf import FusedEncoder
from tests.families import FAMILIES

Model = Any


class Pair(NamedTuple):
    """A checkpoint's folder, our model of it, and transformers'."""

    folder: Path
    ours: FusedEncoder
    theirs: Model


def drop_in(family: str) -> type[FusedEncoder]:
    found: type[FusedEncoder] = getattr(t5enc.hf, FAMILIES[family]["class"])
    return found


def load(family: str, folder: Path, **options: Any) -> Any:
    return drop_in(family).from_pretrained(folder, **options).eval()


def draw_batch(rows: int = 3, length: int = 17, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(B, S) ids, and a mask with pads right and left, and a hole."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 300, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[-1, length // 2 :] = 0
    if rows > 2:
        mask[0, :3] = 0
        mask[1, 5:7] = 0
    return ids, mask


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())


@torch.no_grad()
def encode(model: Model, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    hidden: Tensor = model(input_ids=ids, attention_mask=mask, **options).last_hidden_state
    return hidden
