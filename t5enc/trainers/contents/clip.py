"""CLIP's part of sd-scripts' files: of files that the trainer wrote before, of a column, or of CLIP-L itself."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t5enc.errors import CheckpointError, OutputError

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
CLIP_TOKENS = 77
# Captions come from many threads, and the model is loaded by the first.
_LOCK = Lock()


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


def encode_pooled(model: str, text: str) -> Tensor:
    """What CLIP-L gives for a caption, (768,) in float32: its tokens and pads to 77, all of them attended to.

    CheckpointError where `model`, a folder or a hub id, holds no such model and its tokenizer.
    """
    with _LOCK, torch.inference_mode():
        tokenizer, encoder = _load(model)
        length = {"max_length": CLIP_TOKENS, "padding": "max_length", "truncation": True}
        pooled: Tensor = encoder(tokenizer([text], return_tensors="pt", **length).input_ids).pooler_output[0]
    if tuple(pooled.shape) != CLIP_L:
        raise CheckpointError(f"{model}: expected CLIP-L, whose vectors have {CLIP_L[0]} numbers, got {len(pooled)}")
    return pooled.float()


@lru_cache(maxsize=1)
def _load(model: str) -> tuple[Any, Any]:
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(model)
        return tokenizer, CLIPTextModel.from_pretrained(model, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{model}: expected a CLIP text model and its tokenizer, got: {error}") from error


def _describe(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, Sequence) else repr(value)
