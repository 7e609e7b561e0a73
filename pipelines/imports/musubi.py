"""musubi-tuner's cache of Wan: rows without pads, and the caption in each file.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipelines.imports.cache import Entry, Found, list_files
from t5enc.recipes.families import WAN
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.formats.musubi import CAPTION, KEY, SUFFIX


class MusubiCache:
    """What musubi-tuner writes for Wan; rows in 8 bits become bfloat16, which holds all their values."""

    name: ClassVar[str] = "musubi"
    recipe: ClassVar[Recipe] = WAN

    def find(self, folder: Path) -> Found:
        """All files whose header names a caption."""
        found = Found()
        for file in list_files(folder, SUFFIX):
            metadata = read_metadata(folder / file)
            if metadata is None:
                found.left_out["not a whole safetensors file"] += 1
            elif CAPTION not in metadata:
                found.left_out[f"no {CAPTION} in its metadata"] += 1
            else:
                stem = file.rpartition("/")[2].removesuffix(SUFFIX)
                found.entries.append(Entry(file=file, text=metadata[CAPTION], stem=stem))
        return found

    def read(self, path: Path, place: int = 0) -> Tensor:
        """The one tensor whose name begins like those of T5's rows."""
        tensor = read_tensor(path, KEY)
        return tensor.to(torch.bfloat16) if tensor.element_size() == 1 else tensor


def read_metadata(path: Path) -> Mapping[str, str] | None:
    """The metadata of a safetensors file, empty where it has none; None where it is no such file, or cut."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return None


def read_tensor(path: Path, prefix: str) -> Tensor:
    """The first tensor whose name begins so; ValueError where there is none."""
    try:
        with safe_open(path, "pt") as file:
            keys: list[Any] = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            if not keys:
                raise ValueError(f"expected a tensor {prefix}..., got none")
            tensor: Tensor = file.get_tensor(keys[0])
            return tensor
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from error
