"""Checkpoint tensors into an encoder: the one table of Hugging Face names, and a loader that streams.

Every parameter of ours is one or more of theirs, stacked along the first dimension, so loading is one loop: allocate
the parameter in its final dtype and place, copy each part into its rows. Nothing else is ever allocated, but one
buffer where weights are packed, so peak memory is the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from t5enc.config import EncoderConfig
from t5enc.encoder import Encoder
from t5enc.errors import CheckpointError
from t5enc.linear import Linear

# transformers prefers the first where both are there and differ.
EMBEDDING_NAMES = ("encoder.embed_tokens.weight", "shared.weight")
# A part is copied in pieces of this many elements: a copy that also casts and crosses devices buffers its source.
COPY_ELEMENTS = 1 << 24


def name_block(*, is_gated: bool) -> dict[str, tuple[str, ...]]:
    """A block's parameter -> the Hugging Face tensors, seen from their block, that lie in it one above the other."""
    up = ("wi_0", "wi_1") if is_gated else ("wi",)
    return {
        "attention_norm.weight": ("layer.0.layer_norm.weight",),
        "attention.qkv.weight": tuple(f"layer.0.SelfAttention.{part}.weight" for part in "qkv"),
        "attention.output.weight": ("layer.0.SelfAttention.o.weight",),
        "feed_forward_norm.weight": ("layer.1.layer_norm.weight",),
        "feed_forward.up.weight": tuple(f"layer.1.DenseReluDense.{part}.weight" for part in up),
        "feed_forward.down.weight": ("layer.1.DenseReluDense.wo.weight",),
    }


def name_weights(config: EncoderConfig) -> dict[str, tuple[str, ...]]:
    """Our parameter -> the Hugging Face tensors that lie in it one above the other.

    The embedding has two names on disk, `shared` and `encoder.embed_tokens`; either will do.
    """
    table: dict[str, tuple[str, ...]] = {
        "final_norm.weight": ("encoder.final_layer_norm.weight",),
        "embedding.weight": EMBEDDING_NAMES[1:],
    }
    for layer in range(config.num_layers):
        block = name_block(is_gated=config.is_gated).items()
        table |= {
            f"blocks.{layer}.{ours}": tuple(f"encoder.block.{layer}.{part}" for part in theirs)
            for ours, theirs in block
        }
    table["relative_bias.weight"] = tuple(name_bias(layer) for layer in range(config.num_biases))
    return table


def name_bias(layer: int | str) -> str:
    """The Hugging Face name of a layer's bias table."""
    return f"encoder.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight"


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
    """An encoder with these weights; with `pack` every linear is packed as soon as it is loaded.

    Raises CheckpointError that names each tensor that is missing, unexpected or of the wrong shape.
    """
    with torch.device("meta"):
        encoder = Encoder(config, dtype).eval().requires_grad_(False)
    table = _find_names(name_weights(config), tensors)
    _check_parts(encoder, table, tensors)
    buffer = torch.empty(_largest_linear(encoder) if pack else 0, dtype=dtype, device=device)
    for name, parts in table.items():
        owner = encoder.get_submodule(name.rpartition(".")[0])
        shape = encoder.get_parameter(name).shape
        is_packed = pack and isinstance(owner, Linear)
        target = buffer[: shape.numel()].view(shape) if is_packed else torch.empty(shape, dtype=dtype, device=device)
        owner.weight = _read_parameter(target, [tensors[part] for part in parts])
        if is_packed:
            owner.pack()  # type: ignore[operator]
    encoder.relative_bias.buckets = encoder.relative_bias.buckets.to(device)
    return encoder


def _largest_linear(encoder: Encoder) -> int:
    """Elements of the buffer that weights pass through on their way into packed form.

    One that is allocated anew for each of them leaves holes in the C library's heap, a seventh of the model.
    """
    return max(module.weight.numel() for module in encoder.modules() if isinstance(module, Linear))


def _find_names(table: dict[str, tuple[str, ...]], tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """The table with the embedding's name as it stands in this checkpoint; nothing missing, nothing left over."""
    names = set(tensors)
    embedding = next((name for name in EMBEDDING_NAMES if name in names), EMBEDDING_NAMES[1])
    table = table | {"embedding.weight": (embedding,)}
    wanted = {part for parts in table.values() for part in parts}
    problems = [f"{name}: missing" for name in sorted(wanted - names)]
    problems += [f"{name}: unexpected" for name in sorted(names - wanted - set(EMBEDDING_NAMES))]
    _raise_for(problems)
    return table


def _check_parts(encoder: Encoder, table: Mapping[str, Sequence[str]], tensors: Mapping[str, Tensor]) -> None:
    problems = []
    for name, parts in table.items():
        shape = _part_shape(encoder.get_parameter(name), len(parts))
        for part in parts:
            found = tensors[part]
            if tuple(found.shape) != shape:
                problems.append(f"{part}: expected {shape}, got {tuple(found.shape)}")
            elif not found.is_floating_point():
                problems.append(f"{part}: expected floating point, got {found.dtype}")
    _raise_for(problems)


def _part_shape(parameter: Tensor, parts: int) -> tuple[int, ...]:
    """Shape of one part on disk; the bias of all layers is (L, buckets, H) here and L parts there."""
    if parameter.dim() == 3:
        return tuple(parameter.shape[1:])
    return (parameter.shape[0] // parts, *parameter.shape[1:])


def _raise_for(problems: list[str]) -> None:
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError("the checkpoint does not fit its config:\n  " + "\n  ".join(problems[:20]) + more)


def _read_parameter(target: Tensor, parts: Sequence[Tensor]) -> nn.Parameter:
    rows = target.flatten(0, -2) if target.dim() == 3 else target
    start = 0
    for part in parts:
        _copy_rows(rows[start : start + len(part)], part)
        start += len(part)
    return nn.Parameter(target, requires_grad=False)


def _copy_rows(target: Tensor, source: Tensor) -> None:
    step = max(1, COPY_ELEMENTS // max(1, source[0].numel()))
    for start in range(0, len(source), step):
        target[start : start + step].copy_(source[start : start + step])
