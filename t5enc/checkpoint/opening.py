"""The checkpoint at a place: one that is built in, or files on a disk or a hub."""

from __future__ import annotations

from t5enc.checkpoint.builtin import is_builtin, open_builtin
from t5enc.checkpoint.checkpoint import Checkpoint, open_checkpoint
from t5enc.options import ModelPlace, ModelSource


def open_model(place: ModelPlace, *, with_weights: bool = True) -> Checkpoint:
    """A checkpoint, its weights not yet read; without them they are not even fetched."""
    source = ModelSource.of(place)
    if is_builtin(source.model):
        return open_builtin(source.model)
    return open_checkpoint(source, with_weights=with_weights)
