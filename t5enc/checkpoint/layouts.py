"""How weight files name the tensors of an encoder: Hugging Face's way, ComfyUI's around it, and our own fused one.

ComfyUI keeps Hugging Face's names, at times behind a prefix and beside other models, with scales for weights
in eight bits and with the sentencepiece model as one more tensor. The fused layout of `t5enc convert` has the names of
`t5enc.hf`'s state dict, a tensor for each parameter of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from t5enc.checkpoint.hf_names import (
    ANCHOR,
    EMBEDDING,
    FUSED_ANCHOR,
    OWN_EMBEDDING,
    PREFIXES,
    count_layers,
    name_bias,
    name_up,
)
from t5enc.checkpoint.tensor_files import LazyTensors, ReadTensor
from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError

# What config.json says of the fused layout.
FUSED_LAYOUT = "fused/1"
LAYOUT_FIELD = "t5enc_layout"
FUSED_NORMS_FIELD = "t5enc_fused_norms"
TOKENIZER_MODEL = "spiece_model"
SCALES = ("scale_weight", "weight_scale")
# Scales of activations and notes for ComfyUI's kernels: of no meaning once a weight is multiplied out.
QUANTIZATION_NOTES = ("scale_input", "input_scale", "comfy_quant")
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def find_prefix(names: Mapping[str, object], where: str) -> str:
    """What stands before Hugging Face's names in this file; CheckpointError when it holds no T5 encoder."""
    anchors = (ANCHOR, FUSED_ANCHOR)
    prefixes = [name.removesuffix(anchor) for name in names for anchor in anchors if name.endswith(anchor)]
    prefixes = [prefix for prefix in prefixes if prefix == "" or prefix.endswith(".")]
    if len(prefixes) == 1:
        return prefixes[0]
    if prefixes:
        raise CheckpointError(f"{where}: expected one T5 encoder, got {len(prefixes)}: {', '.join(prefixes)}")
    held = ", ".join(sorted(names)[:5]) or "nothing"
    raise CheckpointError(f"{where}: expected a T5 encoder ({ANCHOR}), got {len(names)} names: {held}, ...")


def is_encoder_name(name: str, prefix: str) -> bool:
    """Whether a tensor belongs to the encoder or its embedding; decoders and heads do not."""
    return name.startswith(tuple(prefix + start for start in PREFIXES))


def select_encoder(tensors: LazyTensors, where: str) -> LazyTensors:
    """The encoder's tensors under Hugging Face's names, scaled weights multiplied out as they are read."""
    prefix = find_prefix(tensors, where)
    readers = {name.removeprefix(prefix): tensors.reader(name) for name in tensors if is_encoder_name(name, prefix)}
    own = readers.pop(OWN_EMBEDDING, None)
    if own is not None:  # where both are there and differ, transformers' encoder uses its own
        readers[EMBEDDING] = own
    return LazyTensors(_apply_scales(readers))


def _apply_scales(readers: dict[str, ReadTensor]) -> dict[str, ReadTensor]:
    """Weights with their scales in them; a scale of no weight stays, to be refused as unexpected."""
    applied = {name: read for name, read in readers.items() if not name.endswith(QUANTIZATION_NOTES)}
    for name in [name for name in applied if name.endswith(SCALES)]:
        weight = name.rpartition(".")[0] + ".weight"
        if weight in applied:
            applied[weight] = partial(_read_scaled, weight, readers[weight], applied.pop(name))
    return applied


def _read_scaled(name: str, read_weight: ReadTensor, read_scale: ReadTensor) -> Tensor:
    """A float8 weight times its scale, or times the scale of each row, in float32."""
    weight, scale = read_weight(), read_scale()
    if weight.dtype not in FLOAT8 or scale.numel() not in (1, len(weight)):
        found = f"{weight.dtype} with {scale.numel()} scales"
        raise CheckpointError(f"{name}: expected float8 with one scale or one a row, got {found}")
    return weight.float() * scale.float().reshape(-1, 1)


def infer_config(tensors: Mapping[str, Tensor], where: str) -> EncoderConfig:
    """The config that the shapes of an encoder without a config.json tell.

    What they do not tell is taken to be as in T5: a gate means tanh gelu (UL2's silu cannot be seen), a bias
    table in the second block means UMT5, distances saturate at 128 and norms add 1e-6.
    """
    if FUSED_ANCHOR in tensors:
        raise CheckpointError(f"{where}: expected the folder that `t5enc convert` wrote, got one file of it")
    is_gated = name_up(is_gated=True) in tensors
    bias_per_layer = name_bias(1) in tensors
    vocab_size, model_dim = _shape(tensors, EMBEDDING, where)
    num_buckets, num_heads = _shape(tensors, name_bias(0), where)
    return EncoderConfig(
        family="umt5" if bias_per_layer else "t5",
        vocab_size=vocab_size,
        model_dim=model_dim,
        num_layers=count_layers(tensors),
        num_heads=num_heads,
        head_dim=_shape(tensors, ANCHOR, where)[0] // num_heads,
        ff_dim=_shape(tensors, name_up(is_gated=is_gated), where)[0],
        activation="gelu_tanh" if is_gated else "relu",
        is_gated=is_gated,
        num_buckets=num_buckets,
        bias_per_layer=bias_per_layer,
    )


def _shape(tensors: Mapping[str, Tensor], name: str, where: str) -> tuple[int, int]:
    shape = tuple(tensors[name].shape) if name in tensors else ()
    if len(shape) != 2:
        raise CheckpointError(f"{where}: {name}: expected a matrix, got {shape or 'nothing of that name'}")
    return shape


def embedded_tokenizer(tensors: Mapping[str, Tensor]) -> bytes | None:
    """The sentencepiece model that ComfyUI puts into its UMT5 files, if there is one."""
    name = next((name for name in tensors if name.rpartition(".")[2] == TOKENIZER_MODEL), None)
    return None if name is None else tensors[name].numpy().tobytes()
