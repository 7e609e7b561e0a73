"""Wan's own names of a UMT5's tensors, as in models_t5_umt5-xxl-enc-bf16.pth and the safetensors made of it."""

from __future__ import annotations

from collections.abc import Iterable

from t5enc.checkpoint.hf_names import BIAS, BLOCKS, EMBEDDING, FINAL_NORM, name_block

ANCHOR = "blocks.0.pos_embedding.embedding.weight"
# Where the tokenizer lies in Wan's repositories, seen from the weights.
TOKENIZER = "google/umt5-xxl"
OUTSIDE = {"token_embedding.weight": EMBEDDING, "norm.weight": FINAL_NORM}
# Within a block, in the order of Hugging Face's names there.
IN_BLOCK = {
    "attention_norm.weight": ("norm1.weight",),
    "attention.qkv.weight": ("attn.q.weight", "attn.k.weight", "attn.v.weight"),
    "attention.output.weight": ("attn.o.weight",),
    "feed_forward_norm.weight": ("norm2.weight",),
    "feed_forward.up.weight": ("ffn.gate.0.weight", "ffn.fc1.weight"),
    "feed_forward.down.weight": ("ffn.fc2.weight",),
}


def find_wan_prefix(names: Iterable[str]) -> str | None:
    """What stands before Wan's names, None where they are others."""
    found = [name.removesuffix(ANCHOR) for name in names if name.endswith(ANCHOR)]
    return next((prefix for prefix in found if prefix == "" or prefix.endswith(".")), None)


def rename_wan(name: str) -> str:
    """Hugging Face's name of a tensor, seen from the encoder's own folder of names; others stay as they are."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    if not name.startswith("blocks."):
        return name
    _, layer, within = name.split(".", 2)
    owner, _, kind = within.rpartition(".")
    # A weight's scale is called after its weight.
    renamed = _WITHIN.get(f"{owner}.weight")
    return name if renamed is None else f"{BLOCKS}{layer}.{renamed.removesuffix('weight')}{kind}"


def _list_names() -> dict[str, str]:
    names = {"pos_embedding.embedding.weight": BIAS}
    for ours, theirs in name_block(is_gated=True).items():
        names |= dict(zip(IN_BLOCK[ours], theirs, strict=True))
    return names


_WITHIN = _list_names()
