"""The tensors of the fused layout, read from a checkpoint of any layout in pieces of rows, one after another.

Beyond pages of the mapped files, which the system can take back, memory holds one piece and its cast, and one whole
tensor where a float8 weight is multiplied out.

M model dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.hf_names import name_fused, name_scale
from t5enc.checkpoint.tensor_writer import StreamedTensor
from t5enc.checkpoint.weights import find_tensor, has_fused_norms, match_tensors, split_rows
from t5enc.errors import CheckpointError
from t5enc.model.norm_fusion import FUSIONS
from t5enc.model.precision import COMPUTE_DTYPES

# A linear layer's weight, seen from its block -> the scale that fusion multiplies into it.
FUSED_SCALES = {f"{follower}.weight": f"{norm}.weight" for norm, follower in FUSIONS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Stored tensors that lie in one of ours, one above the other; `scale` is a norm's, to be multiplied in."""

    tensors: Mapping[str, Tensor]
    names: tuple[str, ...]
    dtype: torch.dtype
    scale: Parts | None = None

    def read(self) -> Iterator[Tensor]:
        """Pieces of whole rows in the final dtype, one at a time."""
        scale = None if self.scale is None else self.scale.read_scale()
        for name in self.names:
            yield from map(partial(self._cast, name, scale), split_rows(self.tensors[name]))

    def read_scale(self) -> Tensor:
        """(M,) float32, rounded as it will be stored, so that it can be divided out again."""
        (piece,) = self.read()
        if not piece.all():
            raise CheckpointError(f"{self.names[0]}: expected no zeros, since a fused scale could not be taken out")
        return piece.float()

    def _cast(self, name: str, scale: Tensor | None, piece: Tensor) -> Tensor:
        exact = piece if scale is None else piece.float() * scale
        cast = exact.to(self.dtype)
        if cast is not piece and not cast.isfinite().all():
            largest = float(exact.float().abs().max())
            raise CheckpointError(f"{name}: expected numbers in the range of {name_dtype(self.dtype)}, got {largest:g}")
        return cast


def list_tensors(checkpoint: Checkpoint, dtype: torch.dtype | None, *, fuse_norms: bool) -> list[StreamedTensor]:
    """The tensors of the fused layout, each to be read from a checkpoint when its turn comes.

    Raises CheckpointError for tensors that are missing, unexpected or of the wrong shape.
    """
    encoder, table = match_tensors(checkpoint.config, checkpoint.tensors)
    is_norm_fused = has_fused_norms(checkpoint.tensors)
    parts = {ours: _take_parts(checkpoint.tensors, names, dtype) for ours, names in table.items()}
    if fuse_norms and not is_norm_fused:
        parts = _fuse_parts(parts)
    names = name_fused(checkpoint.config, has_fused_norms=fuse_norms or is_norm_fused)
    shapes = {ours: tuple(find_tensor(encoder, ours).shape) for ours in table}
    return [
        StreamedTensor(name=stored, dtype=parts[ours].dtype, shape=shapes[_unfused(ours, table)], read=parts[ours].read)
        for ours, (stored,) in names.items()
    ]


def _take_parts(tensors: Mapping[str, Tensor], names: tuple[str, ...], dtype: torch.dtype | None) -> Parts:
    return Parts(tensors=tensors, names=names, dtype=dtype or _common_dtype(tensors[name].dtype for name in names))


def _common_dtype(dtypes: Iterator[torch.dtype]) -> torch.dtype:
    found = set(dtypes)
    return found.pop() if len(found) == 1 and found <= set(COMPUTE_DTYPES.values()) else torch.float32


def _fuse_parts(parts: Mapping[str, Parts]) -> dict[str, Parts]:
    """Norms as the scales to be remembered, and those scales in the weights that follow."""
    fused = {}
    for ours, part in parts.items():
        start, within = _split_block(ours)
        scale = parts.get(start + FUSED_SCALES.get(within, ""))
        kept = Parts(tensors=part.tensors, names=part.names, dtype=part.dtype, scale=scale)
        fused[start + name_scale(within) if start else ours] = kept
    return fused


def _split_block(ours: str) -> tuple[str, str]:
    """A name's block, such as "blocks.3.", and the rest; no block for what is in none."""
    first, layer, *rest = ours.split(".", 2)
    return (f"{first}.{layer}.", rest[0]) if first == "blocks" else ("", ours)


def _unfused(ours: str, table: Mapping[str, tuple[str, ...]]) -> str:
    return ours if ours in table else ours.replace(".fused_scale", ".weight")


def name_dtype(dtype: torch.dtype) -> str:
    """A dtype as configs have it, such as bfloat16."""
    return str(dtype).removeprefix("torch.")
