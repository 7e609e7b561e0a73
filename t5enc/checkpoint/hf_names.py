"""The one table of Hugging Face's names: which of their tensors lie in which parameter of ours.

Three sets of names meet here. Hugging Face's are those of the files that the world shares, and of transformers' own
modules. Ours are the parameters of `t5enc.model.encoder.Encoder`. Those of the fused layout are the state dict of
`t5enc.hf`: around blocks as in Hugging Face's, within them as in ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from t5enc.config import EncoderConfig

ENCODER_CLASSES = ("T5EncoderModel", "UMT5EncoderModel", "MT5EncoderModel")
EMBEDDING = "shared.weight"
# The embedding's second name; transformers prefers this one where both are there and differ.
OWN_EMBEDDING = "encoder.embed_tokens.weight"
# Its third, in files that have neither: madlad400's, whose encoder and decoder share it.
DECODER_EMBEDDING = "decoder.embed_tokens.weight"
EMBEDDING_NAMES = (OWN_EMBEDDING, EMBEDDING)
FINAL_NORM = "encoder.final_layer_norm.weight"
BLOCKS = "encoder.block."
# What the names of the encoder and its embedding begin with; those of decoders and heads do not.
PREFIXES = ("encoder.", "shared.")
QUERY = "layer.0.SelfAttention.q.weight"
BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
# The fused layout's, with the tables of all layers one behind the other.
FUSED_BIAS = "encoder.relative_bias.weight"
# Every T5 encoder has this tensor, and no other model does; the second one is the same in the fused layout.
ANCHOR = f"{BLOCKS}0.{QUERY}"
FUSED_ANCHOR = f"{BLOCKS}0.attention.qkv.weight"


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


def name_in_block(layer: int | str, part: str) -> str:
    """The whole name of a block's tensor, Hugging Face's or the fused layout's."""
    return f"{BLOCKS}{layer}.{part}"


def name_bias(layer: int | str) -> str:
    """The Hugging Face name of a layer's bias table."""
    return name_in_block(layer, BIAS)


def name_up(*, is_gated: bool) -> str:
    """The Hugging Face name of the first block's way up, or of its gate."""
    return name_in_block(0, name_block(is_gated=is_gated)["feed_forward.up.weight"][0])


def count_layers(names: Iterable[str]) -> int:
    """How many blocks have a tensor among these names."""
    return len({name.removeprefix(BLOCKS).partition(".")[0] for name in names if name.startswith(BLOCKS)})


def name_weights(config: EncoderConfig) -> dict[str, tuple[str, ...]]:
    """Our parameter -> the Hugging Face tensors that lie in it one above the other.

    The embedding has two names on disk, of which either will do (`EMBEDDING_NAMES`).
    """
    table: dict[str, tuple[str, ...]] = {"final_norm.weight": (FINAL_NORM,), "embedding.weight": (EMBEDDING,)}
    block = name_block(is_gated=config.is_gated)
    for layer in range(config.num_layers):
        for ours, theirs in block.items():
            table[f"blocks.{layer}.{ours}"] = tuple(name_in_block(layer, part) for part in theirs)
    table["relative_bias.weight"] = tuple(name_bias(layer) for layer in range(config.num_biases))
    return table


def name_fused(config: EncoderConfig, *, has_fused_norms: bool) -> dict[str, tuple[str]]:
    """Our parameter -> the one tensor of the fused layout that is it."""
    names = {"final_norm.weight": FINAL_NORM, "embedding.weight": EMBEDDING, "relative_bias.weight": FUSED_BIAS}
    parts = [*name_block(is_gated=config.is_gated)]
    if has_fused_norms:
        parts = [name_scale(part) for part in parts]
    for layer in range(config.num_layers):
        names |= {f"blocks.{layer}.{part}": name_in_block(layer, part) for part in parts}
    return {ours: (stored,) for ours, stored in names.items()}


def name_parts(config: EncoderConfig) -> dict[str, tuple[str, ...]]:
    """The fused layout's tensor -> the Hugging Face tensors that lie in it, where their names differ."""
    fused = name_fused(config, has_fused_norms=False)
    return {fused[ours][0]: theirs for ours, theirs in name_weights(config).items() if fused[ours] != theirs}


def name_scale(part: str) -> str:
    """What a norm's weight is called once it is multiplied into the layer that follows; other names as they are."""
    return part.replace("_norm.weight", "_norm.fused_scale")


def is_scale(name: str) -> bool:
    """Whether a tensor is such a scale."""
    return name.endswith("_norm.fused_scale")
