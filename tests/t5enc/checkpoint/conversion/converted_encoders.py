"""Encoders of converted checkpoints and what they compute, and what a converted file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from t5enc.checkpoint.opening import open_checkpoint
from t5enc.checkpoint.weights import load_encoder
from t5enc.model.attention.plan import plan_sdpa
from t5enc.model.encoder import Encoder
from tests.families import FAMILIES
from tests.t5enc.reference import random_ids

CPU = torch.device("cpu")
LENGTHS = (1, 7, 33, 33, 80)


def load(folder: Path, dtype: torch.dtype = torch.float32, *, pack: bool = False) -> Encoder:
    checkpoint = open_checkpoint(folder)
    return load_encoder(checkpoint.config, checkpoint.tensors, dtype=dtype, device=CPU, pack=pack)


@torch.no_grad()
def run(encoder: Encoder) -> Tensor:
    ids = random_ids(LENGTHS)
    return encoder(encoder.embed(torch.from_numpy(np.concatenate(ids)).long()), plan_sdpa(LENGTHS, sum(LENGTHS)))  # type: ignore[no-any-return]


def class_of(family: str, module: Any) -> Any:
    return getattr(module, FAMILIES[family]["class"])


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)
