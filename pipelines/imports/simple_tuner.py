"""SimpleTuner's cache: padded rows in files called by the hash of their caption, which must be given.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.imports.cache import Entry, Found, cut_zeros, list_files
from t5enc.errors import ConfigError
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.format import Caption
from t5enc.trainers.formats.simple_tuner import FAMILIES, SimpleTuner

NAME, EMBEDS = "simpletuner", "prompt_embeds"
# Chroma's T5 attends to a pad here, which no recipe computes.
READABLE = tuple(family for family in FAMILIES if family != "chroma")


class SimpleTunerCache:
    """What SimpleTuner writes for a family; `captions` are those that may be in it."""

    name = NAME

    def __init__(self, captions: Iterable[str], family: str = "wan") -> None:
        if family not in READABLE:
            raise ConfigError(f"family: expected one of {', '.join(READABLE)}, got {family!r}")
        self.family = family
        self.names = {name_file(caption, family): caption for caption in ["", *captions]}
        self.length = FAMILIES[family].recipe.max_length

    @property
    def recipe(self) -> Recipe:
        """The family's, at the length that the first file has."""
        return replace(FAMILIES[self.family].recipe, max_length=self.length)

    def find(self, folder: Path) -> Found:
        """The files of captions that were given."""
        found = Found()
        for file in list_files(folder, f"-{self.family}.pt"):
            name = file.rpartition("/")[2]
            if name in self.names:
                found.entries.append(Entry(file=file, text=self.names[name], stem=name.removesuffix(".pt")))
            else:
                found.left_out["of no caption that was given"] += 1
        for entry in found.entries:
            with contextlib.suppress(ValueError):
                self.length = find_tensor(load(folder / entry.file), EMBEDS, 2).shape[-2]
                break
        return found

    def read(self, path: Path, place: int = 0) -> Tensor:
        """(1, S, M) without its pads, which the mask tells, or for Wan zeros."""
        tensors = load(path)
        rows = find_tensor(tensors, EMBEDS, 2).flatten(0, -2)
        mask = FAMILIES[self.family].mask
        return rows[: int(find_tensor(tensors, mask, 1).sum())] if mask else cut_zeros(rows)


def name_file(caption: str, family: str) -> str:
    """As the trainer calls the file of a caption."""
    return SimpleTuner(family=family).name_file(Caption(row=0, text=caption, path="", num_tokens=0))


def find_tensor(found: Any, name: str, dims: int) -> Tensor:
    """A tensor of a file with at least so many dimensions; ValueError where there is no such."""
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, Tensor) or value.ndim < dims:
        raise ValueError(f"expected a tensor {name}, got {type(found).__name__} without")
    return value


def load(path: Path) -> Any:
    """What torch.save wrote, compressed or not; ValueError where it is cut, or holds more than tensors."""
    data = path.read_bytes()
    try:
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, zlib.error, pickle.UnpicklingError) as error:
        raise ValueError(f"expected a file of torch.save, got {error}") from error
