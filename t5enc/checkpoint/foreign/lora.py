"""LoRA adapters as PEFT writes them, multiplied out and added to the weights that they were trained for.

Made for transformers' q, k, v, o, wi_0, wi_1 and wo, or for the fused layers of `t5enc.hf`: a checkpoint of either
layout takes both. Hu et al. 2021, LoRA: W + scale * B A.

R rank, O rows of a weight, I columns.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from t5enc.checkpoint.folders import Folder, open_folder, read_json
from t5enc.checkpoint.hf_names import FUSED_ANCHOR, is_scale, name_parts
from t5enc.checkpoint.tensor_files import LazyTensors, ReadTensor, open_tensors
from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError, ConfigError
from t5enc.options import ModelSource

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
# Fields of an adapter's config that change nothing here, or are read below.
KNOWN_FIELDS = frozenset(
    {"alpha_pattern", "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules"}
    | {"inference_mode", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core"}
    | {"peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules"}
    | {"task_type", "use_rslora"}
)
# Those that have a value which means nothing.
NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Its two files, what it is multiplied by, and what it changes: a weight's name -> its (R, I) and (O, R)."""

    label: str
    files: tuple[Path, ...]
    scale: float
    changes: Mapping[str, Change]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """scale * B A, of which `part` of `parts` as many rows are meant."""

    down: ReadTensor
    up: ReadTensor
    scale: float
    part: int = 0
    parts: int = 1

    def add_to(self, name: str, weight: Tensor) -> None:
        """Add it to these rows of a float32 weight, in place."""
        down, up = self.down().float(), self.up().float()
        if self.parts > 1:
            up = up.chunk(self.parts)[self.part]
        expected, found = tuple(weight.shape), f"{tuple(up.shape)} x {tuple(down.shape)}"
        if up.dim() != 2 or down.dim() != 2 or (len(up), down.shape[1]) != expected:
            raise CheckpointError(f"{name}: expected an adapter of {expected}, got {found}")
        weight.addmm_(up, down, alpha=self.scale)


def open_adapters(source: ModelSource) -> tuple[Adapter, ...]:
    """The adapters that a source names as PATH[:SCALE], between commas."""
    return tuple(_open_adapter(*split_scale(text), source) for text in (source.lora or "").split(",") if text.strip())


def split_scale(text: str) -> tuple[str, float]:
    """A place and the number after its last colon, 1 where there is none."""
    place, colon, number = text.strip().rpartition(":")
    try:
        return (place, float(number)) if colon else (number, 1.0)
    except ValueError:
        return text.strip(), 1.0


def merge_adapters(tensors: Mapping[str, Tensor], adapters: tuple[Adapter, ...], config: EncoderConfig) -> LazyTensors:
    """The same tensors with the adapters in them, in float32 where they change something.

    CheckpointError for an adapter that changes nothing of the encoder, or something that is not there.
    """
    if any(map(is_scale, tensors)):
        raise ConfigError("lora: expected a checkpoint with its norms apart, got one converted with fuse_norms")
    found: dict[str, list[tuple[slice, Change]]] = defaultdict(list)
    for adapter in adapters:
        for name, change in adapter.changes.items():
            for target, rows, part in _find_rows(name, change, tensors, config):
                found[target].append((rows, part))
    readers: dict[str, ReadTensor] = {name: partial(tensors.__getitem__, name) for name in tensors}
    return LazyTensors(readers | {name: partial(_read_merged, name, readers[name], found[name]) for name in found})


def _read_merged(name: str, read: ReadTensor, changes: list[tuple[slice, Change]]) -> Tensor:
    weight = read().float().clone()
    for rows, change in changes:
        change.add_to(name, weight[rows])
    return weight


def _find_rows(
    name: str, change: Change, tensors: Mapping[str, Tensor], config: EncoderConfig
) -> Iterator[tuple[str, slice, Change]]:
    """Which stored tensors a change belongs to, which of their rows, and the part of it that is theirs."""
    parts = name_parts(config)
    is_fused = FUSED_ANCHOR in tensors
    if name in tensors:
        yield name, slice(None), change
    elif name in parts and not is_fused:
        for place, part in enumerate(parts[name]):
            yield part, slice(None), replace(change, part=place, parts=len(parts[name]))
    else:
        owner = next((fused for fused, held in parts.items() if name in held), None)
        if owner is None or owner not in tensors:
            raise CheckpointError(f"lora: {name}: expected a weight of the encoder, got no such name")
        rows = len(tensors[owner]) // len(parts[owner])
        start = rows * parts[owner].index(name)
        yield owner, slice(start, start + rows), change


def _open_adapter(place: str, scale: float, source: ModelSource) -> Adapter:
    folder = open_folder(replace(source, model=place, subfolder=None, revision=None, variant=None, lora=None))
    config_path = folder.find(CONFIG)
    if config_path is None:
        raise CheckpointError(f"lora: no {CONFIG} in {folder.label}: expected the folder of an adapter of PEFT's")
    config = read_json(config_path)
    _check_config(config_path, config)
    weights = _find_weights(folder)
    return Adapter(
        label=place,
        files=(config_path, weights),
        scale=scale,
        changes=_list_changes(weights, open_tensors([weights]), config, scale),
    )


def _find_weights(folder: Folder) -> Path:
    for name in WEIGHTS:
        if (path := folder.find(name)) is not None:
            return path
    raise CheckpointError(f"lora: no {' or '.join(WEIGHTS)} in {folder.label}")


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    """What is more than scale * B A is refused by the field that asks for it."""
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"{path}: peft_type: expected LORA, got {config.get('peft_type')!r}")
    for name, value in config.items():
        is_neutral = not value or value in NEUTRAL_VALUES.get(name, ())
        if name not in KNOWN_FIELDS and not is_neutral:
            raise ConfigError(f"{path}: {name}: expected none, since plain LoRA alone is modelled, got {value!r}")


def _list_changes(path: Path, tensors: LazyTensors, config: Mapping[str, Any], scale: float) -> dict[str, Change]:
    """Those of the encoder; a decoder's are left out, as its weights are."""
    modules = [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    known = {module + end for module in modules for end in (DOWN, UP)}
    if set(tensors) != known:
        odd = ", ".join(sorted(set(tensors) ^ known)[:3])
        raise CheckpointError(f"{path}: expected pairs of lora_A and lora_B, got {odd}")
    changes = {}
    for module in modules:
        name = module.removeprefix(PREFIX)
        if name.startswith("encoder."):
            factor = scale * _find_scale(name, len(tensors[module + DOWN]), config)
            down, up = tensors.reader(module + DOWN), tensors.reader(module + UP)
            changes[f"{name}.weight"] = Change(down=down, up=up, scale=factor)
    if not changes:
        raise CheckpointError(f"{path}: expected an adapter of a T5 encoder, got {', '.join(sorted(tensors)[:3])}")
    return changes


def _find_scale(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """alpha / R, or alpha / sqrt(R) where it is rank-stabilised; both may be a module's own."""
    alpha = _match(name, config.get("alpha_pattern") or {}, config.get("lora_alpha"))
    expected = _match(name, config.get("rank_pattern") or {}, config.get("r"))
    if rank != expected or not isinstance(alpha, int | float):
        raise CheckpointError(f"lora: {name}: expected rank {expected} and a number as alpha, got {rank} and {alpha}")
    return float(alpha) / (sqrt(rank) if config.get("use_rslora") else rank)


def _match(name: str, patterns: Mapping[str, Any], default: Any) -> Any:
    """The value of the first pattern that a module's name ends with, as PEFT reads them."""
    for pattern, value in patterns.items():
        whole = pattern if pattern.startswith("^") else rf"(.*\.)?({pattern})$"
        if re.match(whole, name):
            return value
    return default
