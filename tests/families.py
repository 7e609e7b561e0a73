"""Tiny random Hugging Face checkpoints of every T5 family, to compare with transformers.

The default initialisation has norm scales of one and bias tables near zero, which hides mistakes in both;
here every tensor is redrawn from one seeded stream.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TINY: dict[str, Any] = {
    "vocab_size": 300,
    "d_model": 64,
    "num_heads": 3,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 3,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 64,
    "dropout_rate": 0.1,
}

T5 = TINY | {"class": "T5EncoderModel", "tie_word_embeddings": False}

FAMILIES: dict[str, dict[str, Any]] = {
    "t5_v1_0": T5 | {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "t5_v1_1": T5 | {"feed_forward_proj": "gated-gelu"},
    "mt5": TINY | {"class": "MT5EncoderModel", "feed_forward_proj": "gated-gelu"},
    "umt5": TINY | {"class": "UMT5EncoderModel", "feed_forward_proj": "gated-gelu"},
    "ul2": T5 | {"feed_forward_proj": "gated-silu"},
    "byt5": T5 | {"feed_forward_proj": "gated-gelu", "vocab_size": 384},
}


def make_checkpoint(family: str, folder: str | os.PathLike[str], *, seed: int = 0, **overrides: Any) -> Any:
    """Save a random encoder of `family` under `folder` and return it (transformers model, eval, fp32)."""
    import transformers

    fields = FAMILIES[family] | overrides
    model_class = getattr(transformers, fields.pop("class"))
    model = model_class(model_class.config_class(**fields)).eval()
    redraw_weights(model, seed)
    model.save_pretrained(Path(folder))
    return model


def redraw_weights(model: torch.nn.Module, seed: int) -> None:
    """Draw norm scales from .5..1.5, bias tables with std 1, and the rest so that every layer matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.copy_(_draw(name, parameter, generator))


def _draw(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if like.dim() == 1:
        return torch.rand(like.shape, generator=generator) + 0.5
    noise: Tensor = torch.randn(like.shape, generator=generator)
    if "relative_attention_bias" in name or "shared" in name or "embed_tokens" in name:
        return noise
    # T5 does not divide its logits by sqrt(d_kv): without a smaller q they would saturate the softmax.
    scale = 0.3 if name.endswith(".q.weight") else 1.0
    return noise * (scale / math.sqrt(like.shape[1]))
