"""Cosmos-Predict2: `t5_xxl/<video>.pickle`, a list of one float16 array with the rows of a caption.

The loader pads to 512 rows of 1024 with a mask; the encoder is T5-11B's. L tokens of a caption, M model dim.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from t5enc.recipes.families import RECIPES
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.acceptance import check_stripped
from t5enc.trainers.format import Caption, Given, Pieces
from t5enc.trainers.tensors import narrow

FOLDER, END = "t5_xxl", ".pickle"
# What the script and the loader replace, wherever in a name they stand.
REPLACED = (".txt", ".mp4")
# That of the Python which the trainer asks for.
PROTOCOL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosmos:
    """No options."""

    name: ClassVar[str] = "cosmos"
    recipes: ClassVar[tuple[Recipe, ...]] = (RECIPES["cosmos"],)
    needs_path: ClassVar[bool] = True
    more_columns: ClassVar[tuple[str, ...]] = ()

    def check_caption(self, caption: Caption, given: Given) -> str | None:
        """The script strips."""
        return check_stripped(caption, given)

    def make_extras(self, given: Given) -> Iterable[tuple[str, Pieces]]:
        """None: what stands for no caption are zeros."""
        return ()

    def name_file(self, caption: Caption) -> str:
        """`metas/a.txt`, `videos/a.mp4` and `a` have `t5_xxl/a.pickle`."""
        return f"{FOLDER}/{name_pickle(caption.path)}"

    def make_file(self, caption: Caption, values: Tensor, given: Given) -> Pieces:
        """A list of the rows (L, M) in float16."""
        return [pickle.dumps([narrow(values, torch.float16, f"row {caption.row}").numpy()], protocol=PROTOCOL)]

    def measure_file(self, caption: Caption, given: Given) -> int | None:
        """Known when it is made."""
        return None


def name_pickle(path: str) -> str:
    """The name of a caption's file, by that of its text or its video, or by a stem."""
    name = path.rpartition("/")[2]
    end = next((end for end in REPLACED if name.endswith(end)), None)
    return name + END if end is None else name.replace(end, END)
