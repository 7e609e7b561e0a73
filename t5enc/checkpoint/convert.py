"""A checkpoint of any layout written in the fused one: safetensors that load without being rearranged.

The tensors are those of `t5enc.hf`'s state dict, each whole, read from the mapped source and written piece by piece.

TextEncoder and `t5enc.hf` load the result; `save_pretrained` of `t5enc.hf` gives Hugging Face's layout again.
transformers' own classes cannot load it, and would draw the weights that they miss at random, with no more than a
warning. So config.json names, as `transformers_weights`, a file that is not there: transformers 5 stops, and its
message tells that name. `architectures` names the class that can.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from t5enc.checkpoint.builtin import write_tokenizer
from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.fingerprint import hash_files
from t5enc.checkpoint.foreign.sentence_transformers import MODULE_FILES
from t5enc.checkpoint.fused_tensors import list_tensors, name_dtype
from t5enc.checkpoint.layouts import FUSED_LAYOUT, FUSED_NORMS_FIELD, LAYOUT_FIELD
from t5enc.checkpoint.opening import TOKENIZER_FILES, open_model
from t5enc.checkpoint.output_folder import check_output, commit_files
from t5enc.checkpoint.tensor_writer import StreamedTensor, plan_shards, write_safetensors
from t5enc.checkpoint.weights import has_fused_norms
from t5enc.errors import ConfigError, OutputError
from t5enc.model.precision import COMPUTE_DTYPES, resolve_dtype
from t5enc.options import ModelPlace

KEEP = "keep"
SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(i?)B?", re.IGNORECASE)
# What a conversion writes, and replaces where it is told to.
WRITTEN = ("config.json", "model*.safetensors", "model.safetensors.index.json", *TOKENIZER_FILES, *MODULE_FILES)
# A file that is not there; see above.
REFUSED_WEIGHTS = "layout_of_t5enc-load_it_with_t5enc.hf.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What was written: names of files, bytes and dtypes of weights, whether norm scales are multiplied in."""

    folder: Path
    files: tuple[str, ...]
    weight_bytes: int
    dtypes: tuple[str, ...]
    has_fused_norms: bool
    has_tokenizer: bool


def convert(
    place: ModelPlace,
    output: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = KEEP,
    fuse_norms: bool = False,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
) -> Converted:
    """Write a model (its name, or a ModelSource that says more) into the folder `output`, weights fused, in `dtype`.

    "keep" leaves each weight's dtype, but makes float32 of float8 and float64. `fuse_norms` multiplies norm scales, as
    they are stored, into the weights that follow. A folder that is not empty is refused, or with `overwrite` what a
    conversion writes is replaced in it. Raises ConfigError, CheckpointError or OutputError, and leaves nothing then.
    """
    limit, wanted, folder = parse_size(max_shard_size), _read_dtype(dtype), Path(output).expanduser()
    check_output(folder, overwrite=overwrite)
    checkpoint = open_model(place)
    _check_source(checkpoint, folder)
    tensors = list_tensors(checkpoint, wanted, fuse_norms=fuse_norms)
    is_norm_fused = fuse_norms or has_fused_norms(checkpoint.tensors)
    with commit_files(folder, WRITTEN) as aside:
        _write_weights(aside, plan_shards(tensors, limit), _make_metadata(checkpoint, wanted, is_norm_fused))
        _write_tokenizer(aside, checkpoint)
        if checkpoint.modules is not None:
            checkpoint.modules.copy_files(aside)
        _write_json(aside / "config.json", _make_config(checkpoint, tensors, is_norm_fused))
        files = tuple(sorted(str(path.relative_to(aside)) for path in aside.rglob("*") if path.is_file()))
    return Converted(
        folder=folder,
        files=files,
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        dtypes=_list_dtypes(tensors),
        has_fused_norms=is_norm_fused,
        has_tokenizer=checkpoint.tokenizer_source is not None,
    )


def parse_size(size: int | str) -> int:
    """Bytes of a size such as 5GB, 500MB or 2GiB; ConfigError for anything else."""
    found = SIZE.fullmatch(str(size).replace(" ", ""))
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"max_shard_size: expected bytes or a size such as 5GB, got {size!r}")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))


def _read_dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    if dtype == KEEP:
        return None
    if dtype == "auto":
        raise ConfigError(f"dtype: expected {KEEP} or one of {', '.join(COMPUTE_DTYPES)}, got 'auto'")
    return resolve_dtype(dtype, torch.device("cpu"))


def _make_metadata(checkpoint: Checkpoint, dtype: torch.dtype | None, is_norm_fused: bool) -> dict[str, str]:
    """What says, in the files themselves, where their numbers come from; the source's own path is not in it."""
    names = [path.name for path in checkpoint.files] or [checkpoint.name]
    hashes = hash_files(list(checkpoint.files)) if checkpoint.files else [checkpoint.fingerprint()]
    origin = {f"source_{name}": text for name, text in checkpoint.provenance.items() if name not in ("folder", "files")}
    return origin | {
        "format": "pt",
        LAYOUT_FIELD: FUSED_LAYOUT,
        "t5enc_version": version("t5enc"),
        "source": checkpoint.name,
        "source_sha256": json.dumps(dict(zip(names, hashes, strict=True))),
        "source_dtypes": ", ".join(sorted({name_dtype(checkpoint.tensors[name].dtype) for name in checkpoint.tensors})),
        "dtype": KEEP if dtype is None else name_dtype(dtype),
        "norms": "fused" if is_norm_fused else "separate",
    }


def _make_config(checkpoint: Checkpoint, tensors: Sequence[StreamedTensor], is_norm_fused: bool) -> dict[str, Any]:
    config = dict(checkpoint.hf_config) or checkpoint.config.to_hf()
    for name in ("torch_dtype", "dtype"):
        config.pop(name, None)
    dtypes = _list_dtypes(tensors)
    return config | {
        "architectures": [f"Fused{checkpoint.config.family.upper()}EncoderModel"],
        "dtype": dtypes[0] if len(dtypes) == 1 else "float32",
        LAYOUT_FIELD: FUSED_LAYOUT,
        FUSED_NORMS_FIELD: is_norm_fused,
        "transformers_weights": REFUSED_WEIGHTS,
    }


def _list_dtypes(tensors: Sequence[StreamedTensor]) -> tuple[str, ...]:
    return tuple(sorted({name_dtype(tensor.dtype) for tensor in tensors}))


def _write_weights(folder: Path, shards: Sequence[Sequence[StreamedTensor]], metadata: Mapping[str, str]) -> None:
    """One file, or shards and their index."""
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", shards[0], metadata)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, shard, metadata)
        places |= {tensor.name: name for tensor in shard}
    total = sum(tensor.nbytes for shard in shards for tensor in shard)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _write_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    source = checkpoint.tokenizer_source
    if source is None:
        return
    if not isinstance(source, Path):
        write_tokenizer(folder, source)
        return
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_source(checkpoint: Checkpoint, folder: Path) -> None:
    """Files that are read must not be replaced meanwhile."""
    read = {path.resolve().parent for path in checkpoint.files} | {path.absolute().parent for path in checkpoint.files}
    if isinstance(checkpoint.tokenizer_source, Path):
        read.add(checkpoint.tokenizer_source.resolve())
    if folder.resolve() in read:
        raise OutputError(f"{folder}: expected another folder than the one that the model is read from")
