"""Stored embeddings in a training loop: rows at random from shards, by byte range, as padded batches.

Names load on first use: `t5enc` lists them, and neither torch nor pyarrow is loaded for that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t5enc.dataset.dataset import EmbeddingDataset
    from t5enc.dataset.draws import Draw
    from t5enc.dataset.samples import Batch, Key, Sample

__all__ = ["Batch", "Draw", "EmbeddingDataset", "Key", "Sample"]

_HOMES = {"Batch": "samples", "Draw": "draws", "EmbeddingDataset": "dataset", "Key": "samples", "Sample": "samples"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 't5enc.dataset' has no attribute {name!r}")
    return getattr(import_module(f"t5enc.dataset.{_HOMES[name]}"), name)
