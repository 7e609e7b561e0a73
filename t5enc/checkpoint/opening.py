"""Models by name: one that is built in, or files on a disk or a hub, in any layout.

Layouts: Hugging Face's (safetensors or .bin, whole or in shards), a diffusers repository, one file of ComfyUI's, the
fused one of `t5enc convert`, Wan's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from t5enc.checkpoint.builtin import is_builtin, open_builtin
from t5enc.checkpoint.checkpoint import Checkpoint, TokenizerSource
from t5enc.checkpoint.folders import Folder, LocalFolder, open_folder, read_json
from t5enc.checkpoint.foreign.lora import merge_adapters, open_adapters
from t5enc.checkpoint.foreign.sentence_transformers import SentenceModules, find_modules, open_modules
from t5enc.checkpoint.foreign.wan import TOKENIZER as WAN_TOKENIZER
from t5enc.checkpoint.foreign.wan import find_wan_prefix
from t5enc.checkpoint.layouts import (
    FUSED_LAYOUT,
    LAYOUT_FIELD,
    embedded_tokenizer,
    find_prefix,
    infer_config,
    list_encoder_names,
    select_encoder,
)
from t5enc.checkpoint.repository import Repository, find_encoder_component
from t5enc.checkpoint.tensor_files import open_tensors
from t5enc.config import EncoderConfig
from t5enc.errors import CheckpointError, ConfigError
from t5enc.options import ModelPlace, ModelSource
from t5enc.pooling import Pooler

SINGLE_FILES = (".safetensors", ".pth", ".pt", ".bin")
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "spiece.model",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
)


def open_model(place: ModelPlace, *, with_weights: bool = True) -> Checkpoint:
    """A checkpoint, its weights not yet read; without them they are not even fetched."""
    source = ModelSource.of(place)
    opened = open_builtin(source.model) if is_builtin(source.model) else None
    return _adapt(opened or open_checkpoint(source, with_weights=with_weights), source)


def _adapt(checkpoint: Checkpoint, source: ModelSource) -> Checkpoint:
    """The checkpoint with the adapters that the source names in its weights; as it is where it has none at hand."""
    if source.lora is None or not checkpoint.tensors:
        return checkpoint
    adapters = open_adapters(source)
    merged = merge_adapters(checkpoint.tensors, adapters, checkpoint.config)
    shown = ", ".join(f"{Path(adapter.label).name}:{adapter.scale:g}" for adapter in adapters)
    provenance = {**checkpoint.provenance, "lora": shown}
    return replace(checkpoint, tensors=merged, adapters=adapters, provenance=provenance)


def open_pooler(place: ModelPlace) -> Pooler:
    """How a checkpoint pools: by its own modules where it has some, else by the mean; its weights are not fetched."""
    checkpoint = open_model(place, with_weights=False)
    return find_pooler(checkpoint) or Pooler()


def find_pooler(checkpoint: Checkpoint) -> Pooler | None:
    """The modules of sentence-transformers that lie around a checkpoint, None where there are none."""
    return None if checkpoint.modules is None else open_modules(checkpoint.modules, checkpoint.config.model_dim)


def open_checkpoint(
    place: ModelPlace, *, cache_dir: str | os.PathLike[str] | None = None, with_weights: bool = True
) -> Checkpoint:
    """Open a folder, a hub id, a diffusers repository (either place) or a single .safetensors file.

    From the hub only what is needed is fetched: config, tokenizer, and the weight files with encoder tensors, or
    without `with_weights` none of them, and the checkpoint has no tensors.
    Raises CheckpointError for missing or damaged files, ConfigError for a config that is not modelled.
    """
    source = ModelSource.of(place)
    path = Path(source.model)
    if path.is_file():
        if source.subfolder or source.variant:
            raise ConfigError(f"subfolder, variant: expected none with the single file {path}")
        return open_single_file(path)
    root = open_folder(source, cache_dir=cache_dir)
    index = root.find("model_index.json")
    repository = None if index is None else Repository(index=read_json(index), folder=root)
    modules = find_modules(root.within(source.subfolder)) if repository is None else None
    encoder, tokenizer = _find_components(root, repository, modules, source.subfolder)
    described, config = _read_config(encoder)
    files = _find_weights(encoder, source.variant) if with_weights else []
    return Checkpoint(
        name=source.model,
        config=config,
        tensors=select_encoder(open_tensors(files), encoder.label) if with_weights else {},
        tokenizer_source=_find_tokenizer_files(tokenizer),
        provenance=encoder.provenance | {"files": ", ".join(file.name for file in files)},
        files=tuple(files),
        hf_config=described,
        repository=repository,
        modules=modules,
    )


def open_single_file(path: Path) -> Checkpoint:
    """Open one file of weights as ComfyUI and Wan name and share them; its shapes give the config.

    PyTorch's own are read with `weights_only`: nothing in them is run.
    """
    if path.suffix not in SINGLE_FILES:
        raise CheckpointError(f"{path}: expected a folder or one of {', '.join(SINGLE_FILES)}, got {_name_kind(path)}")
    stored = open_tensors([path])
    tensors = select_encoder(stored, str(path))
    return Checkpoint(
        name=str(path),
        config=infer_config(tensors, str(path)),
        tensors=tensors,
        tokenizer_source=embedded_tokenizer(stored) or _find_beside(path, stored),
        provenance={"folder": str(path.absolute().parent), "files": path.name},
        files=(path,),
    )


def _name_kind(path: Path) -> str:
    """What a file of weights is that is not read."""
    if path.suffix == ".gguf":
        return "GGUF, whose blocks of a few bits are not read: take a float8, int8 or 16-bit file of the same model"
    return f"a {path.suffix} file" if path.suffix else "a file without an ending"


def _find_beside(path: Path, tensors: Mapping[str, Tensor]) -> Path | None:
    """The tokenizer's folder in Wan's repositories, where it lies beside Wan's weights."""
    if find_wan_prefix(tensors) is None:
        return None
    return _find_tokenizer_files(LocalFolder(path.parent).within(WAN_TOKENIZER))


def find_tokenizer(place: ModelPlace) -> TokenizerSource:
    """Where a tokenizer given by name is: a folder, a hub id, or a sentencepiece .model file."""
    source = ModelSource.of(place)
    path = Path(source.model)
    if path.is_file() and path.suffix == ".model":
        return path.read_bytes()
    folder = open_folder(source)
    found = _find_tokenizer_files(folder)
    if found is None:
        expected = " or ".join(TOKENIZER_FILES[:3])
        raise CheckpointError(f"no {expected} in {folder.label}: give another place as tokenizer=")
    return found


def _find_components(
    root: Folder, repository: Repository | None, modules: SentenceModules | None, subfolder: str | None
) -> tuple[Folder, Folder]:
    """Folders of the encoder and of its tokenizer: the same one, but in a diffusers repository."""
    if repository is None:
        # One object: what it finds first pins the commit for both.
        place = root.within(subfolder).within(None if modules is None else modules.encoder_path)
        return place, place
    component = subfolder or find_encoder_component(repository.index, root.label)
    return root.within(component), root.within(component.replace("text_encoder", "tokenizer"))


def _read_config(folder: Folder) -> tuple[dict[str, Any], EncoderConfig]:
    path = folder.find("config.json")
    if path is None:
        raise CheckpointError(f"no config.json in {folder.label}")
    described = read_json(path)
    layout = described.get(LAYOUT_FIELD)
    if layout not in (None, FUSED_LAYOUT):
        raise CheckpointError(f"{path}: {LAYOUT_FIELD}: expected {FUSED_LAYOUT}, got {layout!r} (of a newer t5enc?)")
    try:
        return described, EncoderConfig.from_hf(described)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _find_weights(folder: Folder, variant: str | None) -> list[Path]:
    """Files with encoder tensors, safetensors before .bin and a whole file before shards."""
    names = _weight_names(variant)
    for name in names:
        path = folder.find(name)
        if path is not None:
            return _find_shards(folder, path) if ".index." in name else [path]
    raise CheckpointError(f"no weights in {folder.label}: expected one of {', '.join(names)}")


def _weight_names(variant: str | None) -> list[str]:
    """Where weights may be; of a variant's index there are two spellings."""
    if variant is None:
        stems = [("model.safetensors", "model.safetensors.index.json")]
        stems += [("pytorch_model.bin", "pytorch_model.bin.index.json")]
        return [name for pair in stems for name in pair]
    names = []
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        names += [f"{stem}.{variant}.{suffix}", f"{stem}.{suffix}.index.{variant}.json"]
        names += [f"{stem}.{variant}.{suffix}.index.json"]
    return names


def _find_shards(folder: Folder, index: Path) -> list[Path]:
    """The shards that hold encoder tensors; a decoder's are not even fetched."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(f"{index}: expected a weight_map, got none")
    prefix = find_prefix(places, str(index))
    names = sorted({str(places[name]) for name in list_encoder_names(places, prefix)})
    found = {name: folder.find(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise CheckpointError(f"{index.name} names {', '.join(missing)}: no such file in {folder.label}")
    return [path for path in found.values() if path is not None]


def _find_tokenizer_files(folder: Folder) -> Path | None:
    """The folder that the tokenizer's files are in, each fetched if it exists."""
    found = [path for path in map(folder.find, TOKENIZER_FILES) if path is not None]
    return found[0].parent if found else None
