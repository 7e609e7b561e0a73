"""FastVideo's Parquet: padded rows, many to a file, with their captions beside them.

L tokens of a caption, M model dim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipelines.imports.cache import Entry, Found, cut_zeros, list_files
from t5enc.recipes.recipe import Recipe
from t5enc.trainers.formats.fastvideo import BYTES, DTYPE, SHAPE, FastVideo

SUFFIX = ".parquet"
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class FastVideoCache:
    """What FastVideo makes of captions, of Wan and without cleaning; latents beside them are left where they are.

    Before its change 1843 it wrote and took float32 alone, whatever stands beside the numbers (`trusts_dtype=false`).
    """

    name: ClassVar[str] = "fastvideo"
    recipe: ClassVar[Recipe] = FastVideo().recipes[0]

    def __init__(self, trusts_dtype: bool = True) -> None:
        self.trusts_dtype = trusts_dtype

    def find(self, folder: Path) -> Found:
        """All rows of all files that have a caption beside an embedding."""
        found = Found()
        for file in list_files(folder, SUFFIX):
            texts = read_texts(folder / file)
            if texts is None:
                found.left_out["no Parquet with captions and embeddings"] += 1
                continue
            for place, (text, name) in enumerate(texts):
                if text is None:
                    found.left_out["rows without a caption"] += 1
                else:
                    found.entries.append(Entry(file=file, place=place, text=text, stem=name or ""))
        return found

    def read(self, path: Path, place: int = 0) -> Tensor:
        """(S, M) or (1, S, M) without its pads."""
        group, row = find_group(path, place)
        data, shape, dtype = (column[row].as_py() for column in read_group(path, group).columns)
        if data is None or not shape:
            raise ValueError("expected an embedding, got none")
        if self.trusts_dtype and dtype not in DTYPES:
            raise ValueError(f"expected numbers of {', '.join(DTYPES)}, got {dtype}")
        kind = DTYPES[dtype] if self.trusts_dtype else torch.float32
        if min(shape) < 1 or len(data) != math.prod(shape) * kind.itemsize:
            raise ValueError(f"expected numbers of {shape}, got {len(data) // kind.itemsize}")
        numbers = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        return cut_zeros(numbers.view(kind).view(-1, shape[-1]))


def read_texts(path: Path) -> list[tuple[str | None, str | None]] | None:
    """The captions and ids of a file; None where it has none, or is no Parquet."""
    try:
        file = open_file(path)
        names = file.schema_arrow.names
        if not {"caption", BYTES, SHAPE, DTYPE} <= set(names):
            return None
        table = file.read(columns=[name for name in ("caption", "id") if name in names])
    except (OSError, pa.ArrowInvalid):
        return None
    texts = table["caption"].cast(pa.large_string()).to_pylist()
    ids = table["id"].cast(pa.large_string()).to_pylist() if "id" in names else [None] * len(texts)
    return list(zip(texts, ids, strict=True))


@lru_cache(maxsize=16)
def open_file(path: Path) -> Any:
    """A file, whose footer is read once."""
    return pq.ParquetFile(path)


@lru_cache(maxsize=2)
def read_group(path: Path, group: int) -> pa.Table:
    """Bytes, shapes and dtypes of a row group: rows are asked for one after the other."""
    return open_file(path).read_row_group(group, columns=[BYTES, SHAPE, DTYPE]).select([BYTES, SHAPE, DTYPE])


def find_group(path: Path, place: int) -> tuple[int, int]:
    """The row group of a file's row, and its place there."""
    metadata = open_file(path).metadata
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if place < count:
            return group, place
        place -= count
    raise ValueError(f"expected a row {place} more, got the end of the file")
