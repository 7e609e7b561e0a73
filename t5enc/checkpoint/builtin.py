"""Tiny models made on the spot: no network, no files, the same bits everywhere.

Their weights are drawn from a seed and NOT trained, so their embeddings mean nothing: they are for tests,
demos and dry runs. The tokenizer is a real one, trained on the project's own sample captions.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.hf_names import name_weights
from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError

ASSETS = Path(__file__).parent / "assets"
PREFIX = "builtin:"
BYTE_MODEL = "tiny-byt5"
SEED = 5

# name -> (family, vocabulary): the tokenizer's 1,000 pieces; 256 bytes, 3 control tokens and 125 spare ids.
MODELS = {
    "tiny": ("t5", 1000),
    "tiny-umt5": ("umt5", 1000),
    "tiny-mt5": ("mt5", 1000),
    BYTE_MODEL: ("t5", 384),
}


def is_builtin(name: str | os.PathLike[str]) -> bool:
    """Whether a model's name asks for a built-in one."""
    return str(name).startswith(PREFIX)


def open_builtin(name: str) -> Checkpoint:
    """The checkpoint of an untrained built-in model, with or without the "builtin:" prefix.

    Raises ConfigError listing the names there are.
    """
    key = _find_model(name)
    config = _make_config(*MODELS[key])
    return Checkpoint(
        name=PREFIX + key,
        config=config,
        tensors=_draw_weights(config),
        tokenizer_source="byt5" if key == BYTE_MODEL else _tokenizer_model(),
        provenance={"builtin": key, "seed": str(SEED), "trained": "no"},
    )


def sample_captions() -> list[str]:
    """About 300 captions of images, videos and sounds, in many lengths and languages, for tests and demos."""
    text = (ASSETS / "captions.txt").read_text(encoding="utf-8")
    return [caption for caption in text.split("\n") if caption]


def write_builtin(name: str, folder: str | os.PathLike[str]) -> None:
    """Write a built-in model and its tokenizer as a Hugging Face checkpoint that transformers loads."""
    from safetensors.torch import save_file

    checkpoint = open_builtin(name)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_file(dict(checkpoint.tensors), target / "model.safetensors", metadata={"format": "pt"})
    _write_json(target / "config.json", checkpoint.config.to_hf())
    write_tokenizer(target, checkpoint.tokenizer_source)


def write_tokenizer(folder: Path, model: object) -> None:
    """A sentencepiece model (bytes) or ByT5's tokenizer (anything else), as transformers loads it.

    Both forms of a sentencepiece model, since for UMT5 transformers reads nothing but a tokenizer.json.
    """
    if not isinstance(model, bytes):
        _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125})
        return
    from transformers import T5Tokenizer

    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "spiece.model").write_bytes(model)
    _write_json(folder / "tokenizer_config.json", tokens | {"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
    T5Tokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))


def _find_model(name: str) -> str:
    key = name.removeprefix(PREFIX)
    if key not in MODELS:
        raise ConfigError(f"{name}: expected one of {', '.join(PREFIX + known for known in MODELS)}")
    return key


def _make_config(family: str, vocab_size: int) -> EncoderConfig:
    return EncoderConfig(
        family=family,
        vocab_size=vocab_size,
        model_dim=64,
        num_layers=4,
        num_heads=4,
        head_dim=16,
        ff_dim=128,
        activation="gelu_tanh",
        is_gated=True,
        bias_per_layer=family == "umt5",
    )


def _draw_weights(config: EncoderConfig) -> dict[str, Tensor]:
    """Every tensor from one stream, in the order of its names; NumPy keeps this generator as it is for good."""
    random = np.random.RandomState(SEED)
    places = [(part, ours, place) for ours, parts in name_weights(config).items() for place, part in enumerate(parts)]
    return {part: _draw(random, config, ours, place) for part, ours, place in sorted(places)}


def _draw(random: np.random.RandomState, config: EncoderConfig, ours: str, place: int) -> Tensor:
    """The stored tensor that lies in a parameter of ours at that place."""
    shape = _part_shape(config, ours)
    # Uniform, of variance one: exact arithmetic, while normal draws depend on the platform's logarithm.
    noise = (2 * random.random_sample(shape) - 1) * math.sqrt(3)
    if ours.endswith("norm.weight"):
        values = 1 + 0.1 * noise
    elif ours in ("embedding.weight", "relative_bias.weight"):
        values = noise
    else:
        # T5 does not divide logits by sqrt(head dim), so a query of full size would saturate the softmax.
        gain = 0.3 if ours.endswith(".qkv.weight") and place == 0 else 1.0
        values = noise * (gain / math.sqrt(shape[1]))
    return torch.from_numpy(values.astype(np.float32))


def _part_shape(config: EncoderConfig, ours: str) -> tuple[int, ...]:
    """Shape of each of the stored tensors that lie in a parameter of ours."""
    model, inner, wide = config.model_dim, config.inner_dim, config.ff_dim
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (config.vocab_size, model),
        "relative_bias": (config.num_buckets, config.num_heads),
        "qkv": (inner, model),
        "output": (model, inner),
        "up": (wide, model),
        "down": (model, wide),
    }
    return shapes.get(ours.split(".")[-2], (model,))


def _tokenizer_model() -> bytes:
    return (ASSETS / "tiny.model").read_bytes()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
