"""CLIP's part of sd-scripts' files: taken from files that the trainer wrote before, or from a column."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t5enc.errors import OutputError

# The pooled vector of CLIP-L; and what CLIP-L and CLIP-G give for SD3.
CLIP_L = (768,)
SD3_ARRAYS: Mapping[str, tuple[int, ...]] = {
    "lg_out": (77, 2048),
    "lg_pooled": (2048,),
    "clip_l_attn_mask": (77,),
    "clip_g_attn_mask": (77,),
}
SD3_FLAG: Mapping[str, tuple[int, ...]] = {"apply_lg_attn_mask": ()}
MASK = "t5_attn_mask"


def read_npz(folder: str, name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Arrays of a trainer's file by name, and its mask of T5's tokens where it has one.

    OutputError where the file is not there, or holds no such arrays.
    """
    path = Path(folder, name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [*shapes, *([MASK] if MASK in archive else [])]
            found = {key: torch.from_numpy(np.ascontiguousarray(archive[key])) for key in names}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise OutputError(f"{path}: expected the trainer's file, with {', '.join(shapes)}, got: {error}") from error
    for key, shape in shapes.items():
        found[key] = found[key].reshape(shape) if found[key].numel() == torch.Size(shape).numel() else found[key]
        if tuple(found[key].shape) != shape:
            raise OutputError(f"{path}: {key}: expected {shape}, got {tuple(found[key].shape)}")
    return found


def read_column(value: Any, column: str, row: int) -> Tensor:
    """CLIP-L's pooled vector (768,) float32 from a list of numbers or the bytes of float32; OutputError for others."""
    try:
        numbers = np.frombuffer(value, "<f4") if isinstance(value, bytes) else np.array(value, np.float32)
    except (TypeError, ValueError) as error:
        raise OutputError(f"row {row}: {column}: expected {CLIP_L[0]} numbers, got: {error}") from error
    if numbers.shape != CLIP_L:
        raise OutputError(f"row {row}: {column}: expected {CLIP_L[0]} numbers, got {_describe(value)}")
    return torch.from_numpy(numbers.copy())


def _describe(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, Sequence) else repr(value)
