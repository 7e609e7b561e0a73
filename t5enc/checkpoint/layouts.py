"""How weight files name the tensors of an encoder: Hugging Face's way, ComfyUI's around it, Wan's, and our fused one.

ComfyUI keeps Hugging Face's names, at times behind a prefix and beside other models, with scales for weights
in eight bits and with the sentencepiece model as one more tensor. The fused layout of `t5enc convert` has the names of
`t5enc.hf`'s state dict, a tensor for each parameter of the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from t5enc.checkpoint.foreign.comfyui import HEADER_NOTE, apply_scales
from t5enc.checkpoint.foreign.wan import find_wan_prefix, rename_wan
from t5enc.checkpoint.hf_names import (
    ANCHOR,
    DECODER_EMBEDDING,
    EMBEDDING,
    FUSED_ANCHOR,
    OWN_EMBEDDING,
    PREFIXES,
    count_layers,
    name_bias,
    name_up,
)
from t5enc.checkpoint.tensor_files import LazyTensors
from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError

# What config.json says of the fused layout.
FUSED_LAYOUT = "fused/1"
LAYOUT_FIELD = "t5enc_layout"
FUSED_NORMS_FIELD = "t5enc_fused_norms"
TOKENIZER_MODEL = "spiece_model"


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


def list_encoder_names(names: Iterable[str], prefix: str) -> list[str]:
    """The names of the encoder's tensors and its embedding: madlad's lies in the decoder, which shares it."""
    found = [name for name in names if is_encoder_name(name, prefix)]
    if not {prefix + EMBEDDING, prefix + OWN_EMBEDDING} & set(found) and prefix + DECODER_EMBEDDING in names:
        found.append(prefix + DECODER_EMBEDDING)
    return found


def select_encoder(tensors: LazyTensors, where: str) -> LazyTensors:
    """The encoder's tensors under Hugging Face's names, scaled weights multiplied out as they are read."""
    tensors = _rename(tensors)
    prefix = find_prefix(tensors, where)
    readers = {name.removeprefix(prefix): tensors.reader(name) for name in list_encoder_names(tensors, prefix)}
    for name in (DECODER_EMBEDDING, OWN_EMBEDDING):
        own = readers.pop(name, None)
        if own is not None:  # where both are there and differ, transformers' encoder uses its own
            readers[EMBEDDING] = own
    return LazyTensors(apply_scales(readers, tensors.notes.get(HEADER_NOTE)))


def _rename(tensors: LazyTensors) -> LazyTensors:
    """Wan's names as Hugging Face's; others as they are."""
    prefix = find_wan_prefix(tensors)
    if prefix is None:
        return tensors
    own = [name for name in tensors if name.startswith(prefix)]
    return LazyTensors({rename_wan(name.removeprefix(prefix)): tensors.reader(name) for name in own}, tensors.notes)


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
