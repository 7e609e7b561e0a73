"""Checkpoint tensors into an encoder: read tensor by tensor, with Hugging Face's layout made into ours and back.

Every parameter of ours is one or more of theirs, stacked along the first dimension, so loading is one loop: allocate
the parameter in its final dtype and place, copy each part into its rows. Nothing else is ever allocated, but one
buffer where weights are packed, so peak memory is the model.

The fused layout, which `t5enc convert` writes, holds each parameter whole. Those that need no cast, no other device and
no packing are not copied at all: they stay views of the mapped file, private to the process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from t5enc.checkpoint.hf_names import EMBEDDING, EMBEDDING_NAMES, FUSED_ANCHOR, is_scale, name_fused, name_weights
from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError
from t5enc.model.encoder import Encoder
from t5enc.model.linear import Linear
from t5enc.model.norm_fusion import expect_fused_norms

# A part is copied in pieces of this many elements: a copy that also casts and crosses devices buffers its source.
COPY_ELEMENTS = 1 << 24


def is_fused(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names of the fused layout."""
    return FUSED_ANCHOR in tensors


def has_fused_norms(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors of the fused layout have their norm scales multiplied in."""
    return any(map(is_scale, tensors))


def fuse_tensors(tensors: Mapping[str, Tensor], table: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Tensors under Hugging Face names as those of a `table` of ours; all others as they are.

    A parameter of which a part is missing stays in its parts, for the loader to name them.
    """
    fused = dict(tensors)
    for ours, theirs in table.items():
        if ours not in fused and all(part in fused for part in theirs):
            parts = [fused.pop(part) for part in theirs]
            fused[ours] = torch.stack(parts) if is_bias(ours) else torch.cat(parts)
    return fused


def split_tensors(tensors: Mapping[str, Tensor], table: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """The reverse: views of each fused tensor under its parts' names."""
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        theirs = table.get(name, (name,))
        split |= zip(theirs, tensor.unbind() if is_bias(name) else tensor.chunk(len(theirs)), strict=True)
    return split


def is_bias(name: str) -> bool:
    """Whether a parameter is the bias tables, which lie in it one behind the other."""
    return name.endswith("relative_bias.weight")


def load_encoder(
    config: EncoderConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device,
    pack: bool = False,
) -> Encoder:
    """An encoder with these weights, of either layout; with `pack` every linear is packed as soon as it is loaded.

    Raises CheckpointError that names each tensor that is missing, unexpected or of the wrong shape.
    """
    encoder, table = match_tensors(config, tensors, dtype)
    may_map = is_fused(tensors) and device.type == "cpu"
    buffer = torch.empty(_largest_linear(encoder) if pack else 0, dtype=dtype, device=device)
    for name, parts in table.items():
        owner_name, _, attribute = name.rpartition(".")
        owner, shape = encoder.get_submodule(owner_name), find_tensor(encoder, name).shape
        is_packed = pack and isinstance(owner, Linear)
        if may_map and not is_packed and tensors[parts[0]].dtype == dtype:
            loaded = tensors[parts[0]]
        else:
            target = (
                buffer[: shape.numel()].view(shape) if is_packed else torch.empty(shape, dtype=dtype, device=device)
            )
            loaded = _read_parameter(target, [tensors[part] for part in parts])
        is_buffer = attribute in owner._buffers
        setattr(owner, attribute, loaded if is_buffer else nn.Parameter(loaded, requires_grad=False))
        if is_packed:
            owner.pack()  # type: ignore[operator]
    encoder.relative_bias.buckets = encoder.relative_bias.buckets.to(device)
    return encoder


def match_tensors(
    config: EncoderConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> tuple[Encoder, dict[str, tuple[str, ...]]]:
    """An encoder on the meta device, and for each of its tensors the stored ones that lie in it.

    Raises CheckpointError that names each tensor that is missing, unexpected or of the wrong shape.
    """
    with torch.device("meta"):
        encoder = Encoder(config, dtype).eval().requires_grad_(False)
    table: Mapping[str, tuple[str, ...]] = name_weights(config)
    if is_fused(tensors):
        table = name_fused(config, has_fused_norms=has_fused_norms(tensors))
        if has_fused_norms(tensors):
            expect_fused_norms(encoder.blocks)
    found = _find_names(table, tensors)
    _check_parts(encoder, found, tensors)
    return encoder, found


def find_tensor(encoder: Encoder, name: str) -> Tensor:
    """A parameter or buffer by name."""
    owner, _, attribute = name.rpartition(".")
    found = getattr(encoder.get_submodule(owner), attribute)
    assert isinstance(found, Tensor)
    return found


def _largest_linear(encoder: Encoder) -> int:
    """Elements of the buffer that weights pass through on their way into packed form.

    One that is allocated anew for each of them leaves holes in the C library's heap, a seventh of the model.
    """
    return max(module.weight.numel() for module in encoder.modules() if isinstance(module, Linear))


def _find_names(table: Mapping[str, tuple[str, ...]], tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """The table with the embedding's name as it stands in this checkpoint; nothing missing, nothing left over."""
    names = set(tensors)
    embedding = next((name for name in EMBEDDING_NAMES if name in names), EMBEDDING)
    table = {**table, "embedding.weight": (embedding,)}
    wanted = {part for parts in table.values() for part in parts}
    problems = [f"{name}: missing" for name in sorted(wanted - names)]
    problems += [f"{name}: unexpected" for name in sorted(names - wanted - set(EMBEDDING_NAMES))]
    _raise_for(problems)
    return table


def _check_parts(encoder: Encoder, table: Mapping[str, Sequence[str]], tensors: Mapping[str, Tensor]) -> None:
    problems: list[str] = []
    for name, parts in table.items():
        whole = find_tensor(encoder, name)
        shape = tuple(whole.shape) if is_fused(tensors) else _part_shape(whole, len(parts))
        problems += [problem for part in parts if (problem := _find_problem(part, tensors[part], shape))]
    _raise_for(problems)


def _find_problem(part: str, found: Tensor, shape: tuple[int, ...]) -> str | None:
    if tuple(found.shape) != shape:
        return f"{part}: expected {shape}, got {tuple(found.shape)}"
    return None if found.is_floating_point() else f"{part}: expected floating point, got {found.dtype}"


def _part_shape(parameter: Tensor, parts: int) -> tuple[int, ...]:
    """Shape of one part on disk; the bias of all layers is (L, buckets, H) here and L parts there."""
    if parameter.dim() == 3:
        return tuple(parameter.shape[1:])
    return (parameter.shape[0] // parts, *parameter.shape[1:])


def _raise_for(problems: list[str]) -> None:
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError("the checkpoint does not fit its config:\n  " + "\n  ".join(problems[:20]) + more)


def _read_parameter(target: Tensor, parts: Sequence[Tensor]) -> Tensor:
    rows = target.flatten(0, -2) if target.dim() == 3 else target
    start = 0
    for part in parts:
        part = part.flatten(0, -2) if part.dim() == 3 else part
        for piece in split_rows(part):
            rows[start : start + len(piece)].copy_(piece)
            start += len(piece)
    return target


def split_rows(tensor: Tensor) -> Sequence[Tensor]:
    """A tensor in pieces of whole rows, each of about COPY_ELEMENTS at most."""
    return torch.split(tensor, max(1, COPY_ELEMENTS // max(1, tensor[0].numel())))
