"""PixArt-Sigma, PixArt-alpha, and Sana's npz: a caption's rows in float16, cut to its tokens, and a mask of ones.

The trainer's own script stores 300 rows with those of the pads; its loader repeats the last row where there are fewer,
and masks what it repeats. So pads are left out. The loader finds a file by the path that its JSON of images gives.
L tokens of a caption, M model dim.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from t5enc.errors import ConfigError
from t5enc.recipes.families import PIXART_ALPHA
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.acceptance import check_stripped
from t5enc.trainers.contents.npz import Array, make_npz
from t5enc.trainers.format import Caption, Given, Pieces
from t5enc.trainers.tensors import narrow

# The folders of the loaders: Sigma's two captions of an image, and alpha's.
FOLDERS = ("caption_features_new", "sharegpt4v_caption_features_new", "caption_features")
# In the order in which the loader replaces them, wherever in a path they stand.
IMAGE_ENDS = (".png", ".jpg", ".webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class PixArt:
    """Options: `folder` that the loader looks into, `max_length` that it pads to, `compress` as its script does.

    Compression takes most of the time and next to no bytes; what is not compressed is read as well.
    """

    folder: str = "caption_features_new"
    max_length: int = 300
    compress: bool = True

    name: ClassVar[str] = "pixart"
    needs_path: ClassVar[bool] = True
    more_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.folder not in FOLDERS:
            raise ConfigError(f"folder: expected one of {', '.join(FOLDERS)}, got {self.folder!r}")
        if self.max_length < 1:
            raise ConfigError(f"max_length: expected at least 1, got {self.max_length}")

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Without cleaning."""
        plain = replace(
            PIXART_ALPHA,
            name="pixart_sigma with clean: none",
            clean="none",
            max_length=self.max_length,
        )
        return (plain,)

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """The script strips."""
        return check_stripped(caption, given)

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """None: what stands for no caption is learned by the model."""
        return ()

    def name_file(self, caption: Caption) -> str:
        """`a/b/c.png` has `<folder>/a/b_c.npz`."""
        return f"{self.folder}/{name_features(caption.path)}"

    def make_file(self, caption: Caption, values: Tensor, given: Given) -> Pieces:
        """`caption_feature` (1, L, M) float16 and `attention_mask` (1, L) int16."""
        rows = narrow(values, torch.float16, f"row {caption.row}")[None]
        arrays = {
            "caption_feature": Array.of(rows),
            "attention_mask": Array.of(torch.ones(1, len(values), dtype=torch.int16)),
        }
        return make_npz(arrays, compress=self.compress)

    def measure_file(self, caption: Caption, given: Given) -> int | None:
        """Unknown: it is compressed."""
        return None


def name_features(path: str) -> str:
    """What the loader calls the features of an image: the last `/` is a `_`, and its ends of images are `.npz`."""
    folder, slash, file = path.rpartition("/")
    name = f"{folder}_{file}" if slash else file
    for end in IMAGE_ENDS:
        name = name.replace(end, ".npz")
    return name
