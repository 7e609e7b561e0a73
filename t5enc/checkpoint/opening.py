"""The checkpoint that options name: one that is built in, or files on a disk or a hub."""

from __future__ import annotations

from t5enc.checkpoint.builtin import is_builtin, open_builtin
from t5enc.checkpoint.checkpoint import Checkpoint, open_checkpoint
from t5enc.options import EncoderOptions


def open_model(options: EncoderOptions, *, with_weights: bool = True) -> Checkpoint:
    """The checkpoint that options name, its weights not yet read; without them they are not even fetched."""
    if is_builtin(options.model):
        return open_builtin(options.model)
    return open_checkpoint(
        options.model,
        subfolder=options.subfolder,
        revision=options.revision,
        variant=options.variant,
        token=options.token,
        local_files_only=options.local_files_only,
        with_weights=with_weights,
    )
