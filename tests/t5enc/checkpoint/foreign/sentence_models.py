"""Models as sentence-transformers lays them out: an encoder, and folders of the modules after it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from t5enc.checkpoint.builtin import write_builtin

TYPES = "sentence_transformers.models."
IDENTITY = "torch.nn.modules.linear.Identity"
TANH = "torch.nn.modules.activation.Tanh"
DIM = 64

# A module: its class, its config, its tensors.
Module = tuple[str, dict[str, Any], dict[str, Tensor]]


def draw(rows: int, columns: int = DIM, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / columns**0.5


def pooling(**modes: bool) -> Module:
    """As the models of 2022 have it."""
    return "Pooling", {"word_embedding_dimension": DIM} | (modes or {"pooling_mode_mean_tokens": True}), {}


def dense(weight: Tensor, bias: Tensor | None = None, activation: str = IDENTITY, **more: Any) -> Module:
    rows, columns = weight.shape
    config = {"in_features": columns, "out_features": rows, "bias": bias is not None, "activation_function": activation}
    return "Dense", config | more, {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})


NORMALIZE: Module = ("Normalize", {}, {})
SENTENCE_T5 = (pooling(), dense(draw(DIM)), NORMALIZE)


def write_model(
    folder: Path, modules: Sequence[Module] = SENTENCE_T5, *, encoder: str = "", is_pickled: bool = False
) -> Path:
    """The built-in tiny encoder in the folder, or in `encoder` within it, and these modules."""
    write_builtin("builtin:tiny", folder / encoder)
    listed = [{"idx": 0, "name": "0", "path": encoder, "type": f"{TYPES}Transformer"}]
    for place, (kind, config, tensors) in enumerate(modules, 1):
        path = f"{place}_{kind.rpartition('.')[2]}"
        listed.append({"idx": place, "name": str(place), "path": path, "type": kind if "." in kind else TYPES + kind})
        _write_module(folder / path, config, tensors, is_pickled)
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": false}')
    return folder


def _write_module(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], is_pickled: bool) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if tensors and is_pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
    elif tensors:
        save_file(tensors, folder / "model.safetensors")
