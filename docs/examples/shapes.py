"""Captions of simple pictures, and the pictures: `python docs/examples/shapes.py captions` writes the captions.

A picture is what its caption says, so that a model that reads its captions can know it, and another one cannot.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

SIDE = 16
COLORS = {
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
    "purple": (1, -1, 1),
    "cyan": (-1, 1, 1),
    "white": (1, 1, 1),
    "orange": (1, 0, -1),
}
FORMS = ("circle", "square", "ring", "cross")
RADII = {"small": 2.6, "large": 4}
PLACES = {
    "top left": (4, 4),
    "top": (4, 8),
    "top right": (4, 12),
    "left": (8, 4),
    "right": (8, 12),
    "bottom left": (12, 4),
    "bottom": (12, 8),
    "bottom right": (12, 12),
}


def list_captions() -> list[str]:
    """All 512 captions; the place in this list is the id of a picture."""
    words = product(RADII, COLORS, FORMS, PLACES)
    return [f"a {size} {color} {form} at the {place}" for size, color, form, place in words]


def draw_images() -> Tensor:
    """(512, 3, 16, 16) of -1 to 1: the pictures of `list_captions`."""
    words = product(RADII.values(), COLORS.values(), FORMS, PLACES.values())
    return torch.from_numpy(np.stack([_draw_image(*found) for found in words]))


def _draw_image(radius: float, color: tuple[int, int, int], form: str, place: tuple[int, int]) -> np.ndarray:
    down, right = np.abs(np.mgrid[:SIDE, :SIDE] + 0.5 - np.reshape(place, (2, 1, 1)))
    distance = np.hypot(down, right)
    inside = {
        "circle": distance < radius,
        "square": np.maximum(down, right) < radius,
        "ring": (distance < radius) & (distance > radius / 2),
        "cross": (np.minimum(down, right) < radius / 3) & (np.maximum(down, right) < radius),
    }[form]
    return np.where(inside, np.reshape(color, (3, 1, 1)), -1).astype(np.float32)


def write_captions(folder: Path) -> None:
    """A Parquet file of ids and captions, as `t5enc encode` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = list_captions()
    pq.write_table(pa.table({"id": range(len(captions)), "caption": captions}), folder / "shapes.parquet")


if __name__ == "__main__":
    write_captions(Path(sys.argv[1]))
