"""A checkpoint of any layout written in the fused one: safetensors that load without being rearranged.

The tensors are those of `t5enc.hf`'s state dict, each whole. They are read from the mapped source and written in pieces
of rows, one after another: beyond pages of the mapped files, which the system can take back, memory holds one piece
and its cast, and one whole tensor where a float8 weight is multiplied out.

TextEncoder and `t5enc.hf` load the result; `save_pretrained` of `t5enc.hf` gives Hugging Face's layout again.
transformers' own classes cannot load it, and would draw the weights that they miss at random, with no more than a
warning. So config.json names, as `transformers_weights`, a file that is not there: transformers 5 stops, and its
message tells that name. `architectures` names the class that can.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t5enc.checkpoint.builtin import write_tokenizer
from t5enc.checkpoint.checkpoint import TOKENIZER_FILES, Checkpoint
from t5enc.checkpoint.fingerprint import hash_files
from t5enc.checkpoint.layouts import FUSED_LAYOUT, FUSED_NORMS_FIELD, LAYOUT_FIELD, describe_config
from t5enc.checkpoint.opening import open_model
from t5enc.checkpoint.tensor_writer import StreamedTensor, plan_shards, write_safetensors
from t5enc.checkpoint.weights import find_tensor, has_fused_norms, match_tensors, name_fused, split_rows
from t5enc.errors import CheckpointError, ConfigError, OutputError
from t5enc.model.norm_fusion import FUSIONS
from t5enc.model.precision import COMPUTE_DTYPES, resolve_dtype
from t5enc.options import ModelPlace

KEEP = "keep"
SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(i?)B?", re.IGNORECASE)
# A linear layer's weight, seen from its block -> the scale that fusion multiplies into it.
FUSED_SCALES = {f"{follower}.weight": f"{norm}.weight" for norm, follower in FUSIONS.items()}
# What a conversion writes, and replaces where it is told to.
WRITTEN = ("config.json", "model*.safetensors", "model.safetensors.index.json", *TOKENIZER_FILES)
ASIDE = ".converting-"
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
    _check_output(folder, overwrite=overwrite)
    checkpoint = open_model(place)
    _check_source(checkpoint, folder)
    tensors = list_tensors(checkpoint, wanted, fuse_norms=fuse_norms)
    is_norm_fused = fuse_norms or has_fused_norms(checkpoint.tensors)
    with _commit(folder) as aside:
        _write_weights(aside, plan_shards(tensors, limit), _make_metadata(checkpoint, wanted, is_norm_fused))
        _write_tokenizer(aside, checkpoint)
        _write_json(aside / "config.json", _make_config(checkpoint, tensors, is_norm_fused))
        files = tuple(sorted(path.name for path in aside.iterdir()))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Stored tensors that lie in one of ours, one above the other; `scale` is a norm's, to be multiplied in."""

    tensors: Mapping[str, Tensor]
    names: tuple[str, ...]
    dtype: torch.dtype
    scale: Parts | None = None

    def read(self) -> Iterator[Tensor]:
        """Pieces of whole rows in the final dtype, one at a time."""
        scale = None if self.scale is None else self.scale.read_scale()
        for name in self.names:
            yield from map(partial(self._cast, name, scale), split_rows(self.tensors[name]))

    def read_scale(self) -> Tensor:
        """(M,) float32, rounded as it will be stored, so that it can be divided out again."""
        (piece,) = self.read()
        if not piece.all():
            raise CheckpointError(f"{self.names[0]}: expected no zeros, since a fused scale could not be taken out")
        return piece.float()

    def _cast(self, name: str, scale: Tensor | None, piece: Tensor) -> Tensor:
        exact = piece if scale is None else piece.float() * scale
        cast = exact.to(self.dtype)
        if cast is not piece and not cast.isfinite().all():
            largest = float(exact.float().abs().max())
            raise CheckpointError(f"{name}: expected numbers in the range of {_name(self.dtype)}, got {largest:g}")
        return cast


def list_tensors(checkpoint: Checkpoint, dtype: torch.dtype | None, *, fuse_norms: bool) -> list[StreamedTensor]:
    """The tensors of the fused layout, each to be read from a checkpoint when its turn comes.

    Raises CheckpointError for tensors that are missing, unexpected or of the wrong shape.
    """
    encoder, table = match_tensors(checkpoint.config, checkpoint.tensors)
    is_norm_fused = has_fused_norms(checkpoint.tensors)
    parts = {ours: _take_parts(checkpoint.tensors, names, dtype) for ours, names in table.items()}
    if fuse_norms and not is_norm_fused:
        parts = _fuse_parts(parts)
    names = name_fused(checkpoint.config, has_fused_norms=fuse_norms or is_norm_fused)
    shapes = {ours: tuple(find_tensor(encoder, ours).shape) for ours in table}
    return [
        StreamedTensor(name=stored, dtype=parts[ours].dtype, shape=shapes[_unfused(ours, table)], read=parts[ours].read)
        for ours, (stored,) in names.items()
    ]


def _take_parts(tensors: Mapping[str, Tensor], names: tuple[str, ...], dtype: torch.dtype | None) -> Parts:
    return Parts(tensors=tensors, names=names, dtype=dtype or _common_dtype(tensors[name].dtype for name in names))


def _common_dtype(dtypes: Iterator[torch.dtype]) -> torch.dtype:
    found = set(dtypes)
    return found.pop() if len(found) == 1 and found <= set(COMPUTE_DTYPES.values()) else torch.float32


def _fuse_parts(parts: Mapping[str, Parts]) -> dict[str, Parts]:
    """Norms as the scales to be remembered, and those scales in the weights that follow."""
    fused = {}
    for ours, part in parts.items():
        start, within = _split_block(ours)
        scale = parts.get(start + FUSED_SCALES.get(within, ""))
        kept = Parts(tensors=part.tensors, names=part.names, dtype=part.dtype, scale=scale)
        fused[start + within.replace("_norm.weight", "_norm.fused_scale") if start else ours] = kept
    return fused


def _split_block(ours: str) -> tuple[str, str]:
    """A name's block, such as "blocks.3.", and the rest; no block for what is in none."""
    first, layer, *rest = ours.split(".", 2)
    return (f"{first}.{layer}.", rest[0]) if first == "blocks" else ("", ours)


def _unfused(ours: str, table: Mapping[str, tuple[str, ...]]) -> str:
    return ours if ours in table else ours.replace(".fused_scale", ".weight")


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
        "source_dtypes": ", ".join(sorted({_name(checkpoint.tensors[name].dtype) for name in checkpoint.tensors})),
        "dtype": KEEP if dtype is None else _name(dtype),
        "norms": "fused" if is_norm_fused else "separate",
    }


def _make_config(checkpoint: Checkpoint, tensors: Sequence[StreamedTensor], is_norm_fused: bool) -> dict[str, Any]:
    config = dict(checkpoint.hf_config) or describe_config(checkpoint.config)
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
    return tuple(sorted({_name(tensor.dtype) for tensor in tensors}))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def _check_output(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: expected a folder to write to, got a file")
    held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if held and not overwrite:
        shown = ", ".join(held[:5])
        raise OutputError(f"{folder}: expected an empty folder (or overwrite), got one that holds {shown}")


def _check_source(checkpoint: Checkpoint, folder: Path) -> None:
    """Files that are read must not be replaced meanwhile."""
    read = {path.resolve().parent for path in checkpoint.files} | {path.absolute().parent for path in checkpoint.files}
    if isinstance(checkpoint.tokenizer_source, Path):
        read.add(checkpoint.tokenizer_source.resolve())
    if folder.resolve() in read:
        raise OutputError(f"{folder}: expected another folder than the one that the model is read from")


@contextlib.contextmanager
def _commit(folder: Path) -> Iterator[Path]:
    """A folder to write to, whose files move into `folder` when all are there; on errors nothing of it stays."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=folder))
        try:
            yield aside
            for path in aside.iterdir():
                _sync(path)
            _replace_files(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise OutputError(f"{folder}: {error}") from error


def _replace_files(aside: Path, folder: Path) -> None:
    """config.json goes first and comes last: without it nobody takes the folder for a checkpoint."""
    (folder / "config.json").unlink(missing_ok=True)
    for pattern in (*WRITTEN, f"{ASIDE}*"):
        for path in folder.glob(pattern):
            if path.is_file() or path.is_symlink():
                path.unlink()
            elif path != aside:
                shutil.rmtree(path)
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(folder / path.name)
    _sync(folder)


def _sync(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
