"""The ways to load a checkpoint that are compared, each from a shape's name to a model in memory."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions.corpus import BFLOAT16_SHAPES, make_checkpoint

COPIED = "transformers, and a copy of every weight"
CPU = torch.device("cpu")


def find_dtype(shape: str) -> torch.dtype:
    """What a shape's checkpoint is stored in."""
    return torch.bfloat16 if shape in BFLOAT16_SHAPES else torch.float32


def load_plain(shape: str) -> Any:
    """t5enc, weights as they are."""
    return _load_own(make_checkpoint(shape), find_dtype(shape), pack=False)


def load_packed(shape: str) -> Any:
    """t5enc as TextEncoder loads on CPUs: linear weights in oneDNN's layout."""
    return _load_own(make_checkpoint(shape), find_dtype(shape), pack=True)


def load_converted(shape: str) -> Any:
    """t5enc, from its own layout."""
    return _load_own(make_converted(shape), find_dtype(shape), pack=False)


def _load_own(folder: Path, dtype: torch.dtype, *, pack: bool) -> Any:
    from t5enc.checkpoint.opening import open_checkpoint
    from t5enc.checkpoint.weights import load_encoder

    checkpoint = open_checkpoint(folder)
    return load_encoder(checkpoint.config, checkpoint.tensors, dtype=dtype, device=CPU, pack=pack)


def load_drop_in(shape: str) -> Any:
    """The drop-in for transformers' class."""
    from t5enc.hf import T5EncoderModel

    return T5EncoderModel.from_pretrained(make_checkpoint(shape), dtype=find_dtype(shape))


def load_drop_in_converted(shape: str) -> Any:
    """The drop-in, from t5enc's own layout."""
    from t5enc.hf import T5EncoderModel

    return T5EncoderModel.from_pretrained(make_converted(shape), dtype=find_dtype(shape))


def load_transformers(shape: str) -> Any:
    """transformers, whose weights stay in the mapped file."""
    from transformers import T5EncoderModel

    return T5EncoderModel.from_pretrained(make_checkpoint(shape), dtype=find_dtype(shape))


def load_nai(shape: str) -> Any:
    """nai-t5-wrapper from the same checkpoint."""
    nai_t5_wrapper: Any = importlib.import_module("nai_t5_wrapper")
    return nai_t5_wrapper.NAIT5EncoderModel.from_pretrained(
        make_checkpoint(shape), dtype=find_dtype(shape), device_map="cpu", use_flex_attention=False
    )


def load_tensorizer(shape: str) -> Any:
    """t5enc's own layout in a file of tensorizer's, read whole into the same encoder."""
    from t5enc.checkpoint.opening import open_checkpoint
    from t5enc.checkpoint.weights import load_encoder

    tensorizer: Any = importlib.import_module("tensorizer")
    path = make_serialized(shape)
    with tensorizer.TensorDeserializer(path, device="cpu") as found:
        tensors = {str(name): found[name].data for name in found}
    config = open_checkpoint(make_converted(shape)).config
    return load_encoder(config, tensors, dtype=find_dtype(shape), device=CPU)


def copied(load: Callable[[str], Any]) -> Callable[[str], Any]:
    """A loader that then reads every weight into memory."""

    def load_and_copy(shape: str) -> Any:
        model = load(shape)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model

    return load_and_copy


def make_converted(shape: str) -> Path:
    """What `t5enc convert` makes of a checkpoint, made once."""
    from t5enc.checkpoint.convert import convert

    folder = make_checkpoint(shape)
    target = folder.with_name(f"{folder.name}-fused")
    if not (target / "config.json").is_file():
        aside = folder.with_name(f"{target.name}.{os.getpid()}")
        convert(folder, aside)
        aside.rename(target)
    return target


def make_serialized(shape: str) -> Path:
    """The same tensors in a file of tensorizer's, made once."""
    from safetensors.torch import load_file

    tensorizer: Any = importlib.import_module("tensorizer")
    folder = make_converted(shape)
    target = folder / "model.tensors"
    if not target.is_file():
        aside = folder / f"model.{os.getpid()}"
        serializer = tensorizer.TensorSerializer(aside)
        serializer.write_state_dict(load_file(folder / "model.safetensors"))
        serializer.close()
        aside.rename(target)
    return target


LOADERS: dict[str, Callable[[str], Any]] = {
    "t5enc, packed": load_packed,
    "t5enc": load_plain,
    "t5enc, converted": load_converted,
    "t5enc, converted, and a copy of every weight": copied(load_converted),
    "t5enc.hf": load_drop_in,
    "t5enc.hf, converted": load_drop_in_converted,
    "transformers": load_transformers,
    COPIED: copied(load_transformers),
    "nai-t5-wrapper": load_nai,
    "tensorizer, into t5enc": load_tensorizer,
}
# What a loader needs that may not be installed.
NEEDED = {"nai-t5-wrapper": "nai_t5_wrapper", "tensorizer, into t5enc": "tensorizer"}
FLOAT32_LOADERS = ("t5enc, packed", "t5enc", "transformers", COPIED)
