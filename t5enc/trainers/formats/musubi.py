"""musubi-tuner, Wan: `<stem>_wan_te.safetensors` with the rows of a caption, neither padded nor masked.

The trainer strips captions, takes the stem of the image's or video's name, and reads whatever dtype the key names.
L tokens of a caption, M model dim.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from t5enc.recipes.families import WAN
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.acceptance import check_text
from t5enc.trainers.format import Caption, Given, Pieces
from t5enc.trainers.tensors import find_dtype, make_header, narrow, view_bytes

DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3fn")
ARCHITECTURE, VERSION = "wan", "1.0.1"
SUFFIX, KEY, CAPTION = f"_{ARCHITECTURE}_te.safetensors", "varlen_t5_", "caption1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Musubi:
    """Options: `dtype` of the numbers, bfloat16 as the trainer's own cache has."""

    dtype: str = "bfloat16"

    name: ClassVar[str] = "musubi"
    recipes: ClassVar[tuple[Recipe, ...]] = (WAN,)
    needs_path: ClassVar[bool] = True
    more_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        find_dtype(self.dtype, DTYPES)

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """The trainer strips; so does Wan's cleaning."""
        return check_text(caption.text.strip(), caption, given)

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """None: dropout has no file in this cache."""
        return ()

    def name_file(self, caption: Caption) -> str:
        """`a.jpg` and `a.mp4` in whatever folder share `a_wan_te.safetensors`."""
        stem, _ = posixpath.splitext(posixpath.basename(caption.path))
        return f"{stem}{SUFFIX}"

    def make_file(self, caption: Caption, values: Tensor, given: Given) -> Pieces:
        """One tensor (L, M), named by its dtype."""
        numbers = narrow(values, self._dtype, f"row {caption.row}")
        return [self._head(caption, given), view_bytes(numbers)]

    def measure_file(self, caption: Caption, given: Given) -> int:
        """Header and numbers."""
        return len(self._head(caption, given)) + caption.num_tokens * given.dim * self._dtype.itemsize

    @property
    def _dtype(self) -> torch.dtype:
        return find_dtype(self.dtype, DTYPES)

    def _head(self, caption: Caption, given: Given) -> bytes:
        metadata = {"architecture": ARCHITECTURE, CAPTION: caption.text.strip(), "format_version": VERSION}
        shape = (caption.num_tokens, given.dim)
        return make_header([(f"{KEY}{self.dtype}", self._dtype, shape)], metadata)
