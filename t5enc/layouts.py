"""How weight files name the tensors of an encoder: Hugging Face's way, and ComfyUI's around it.

ComfyUI keeps Hugging Face's names, at times behind a prefix and beside other models, with scales for weights in
eight bits and with the sentencepiece model as one more tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError
from t5enc.tensor_files import LazyTensors, ReadTensor

# Every T5 encoder has this tensor, and no other model does: what stands before it is the file's prefix.
ANCHOR = "encoder.block.0.layer.0.SelfAttention.q.weight"
EMBEDDING = "shared.weight"
EMBEDDING_ALIAS = "encoder.embed_tokens.weight"
BIAS = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
FEED_FORWARD = "encoder.block.0.layer.1.DenseReluDense"
TOKENIZER_MODEL = "spiece_model"
SCALES = ("scale_weight", "weight_scale")
# Scales of activations and a description for ComfyUI's kernels: of no meaning once a weight is multiplied out.
QUANTIZATION_NOTES = ("scale_input", "input_scale", "comfy_quant")
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def find_prefix(names: Mapping[str, object], where: str) -> str:
    """What stands before Hugging Face's names in this file; CheckpointError when it holds no T5 encoder."""
    prefixes = [name.removesuffix(ANCHOR) for name in names if name.endswith(ANCHOR)]
    prefixes = [prefix for prefix in prefixes if prefix == "" or prefix.endswith(".")]
    if len(prefixes) == 1:
        return prefixes[0]
    if prefixes:
        raise CheckpointError(f"{where}: expected one T5 encoder, got {len(prefixes)}: {', '.join(prefixes)}")
    held = ", ".join(sorted(names)[:5]) or "nothing"
    raise CheckpointError(f"{where}: expected a T5 encoder ({ANCHOR}), got {len(names)} names: {held}, ...")


def is_encoder_name(name: str, prefix: str) -> bool:
    """Whether a tensor belongs to the encoder or its embedding; decoders and heads do not."""
    return name.startswith((prefix + "encoder.", prefix + "shared."))


def select_encoder(tensors: LazyTensors, where: str) -> LazyTensors:
    """The encoder's tensors under Hugging Face's names, scaled weights multiplied out as they are read."""
    prefix = find_prefix(tensors, where)
    readers = {
        name.removeprefix(prefix): tensors.reader(name) for name in tensors if is_encoder_name(name, prefix)
    }
    alias = readers.pop(EMBEDDING_ALIAS, None)
    if alias is not None:
        readers.setdefault(EMBEDDING, alias)
    return LazyTensors(_apply_scales(readers))


def _apply_scales(readers: dict[str, ReadTensor]) -> dict[str, ReadTensor]:
    plain = {name: read for name, read in readers.items() if not name.endswith(SCALES + QUANTIZATION_NOTES)}
    for name in readers:
        module, _, last = name.rpartition(".")
        weight = f"{module}.weight"
        if last in SCALES and weight in plain:
            plain[weight] = partial(_read_scaled, weight, readers[weight], readers[name])
        elif last == "comfy_quant" and weight in plain:
            plain.setdefault
    return plain


def _read_scaled(name: str, read_weight: ReadTensor, read_scale: ReadTensor) -> Tensor:
    """A weight stored as float8 times one scale, or one a row; in float32, which holds the product exactly."""
    weight, scale = read_weight(), read_scale()
    if weight.dtype not in FLOAT8 or scale.numel() not in (1, len(weight)):
        raise CheckpointError(
            f"{name}: expected float8 with one scale or one a row, got {weight.dtype} with {scale.numel()} scales"
        )
    return weight.float() * scale.float().reshape(-1, 1)
