"""FastVideo's loader of captions, in our own words: what it finds in a folder, and the batch that it makes of rows."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

LENGTH = 512
WANTED = ("id", "text_embedding_bytes", "text_embedding_shape", "text_embedding_dtype", "caption")


class Loader:
    """All Parquet below a folder, each file where it really lies, in the order of those paths."""

    def __init__(self, folder: Path, *, drop: float = 0.0, seed: int = 42, reads_dtype: bool = False) -> None:
        root = os.path.realpath(folder)
        walked = [os.path.join(place, file) for place, _, files in os.walk(root) for file in files]
        self.files = sorted(os.path.realpath(path) for path in walked if path.endswith(".parquet"))
        assert all(os.path.commonpath([path, root]) == root for path in self.files), "a file outside of its folder"
        self.counts = [pq.ParquetFile(path).metadata.num_rows for path in self.files]
        self.drop, self.seed, self.reads_dtype = drop, seed, reads_dtype

    def __len__(self) -> int:
        return sum(self.counts)

    def read_row(self, number: int) -> dict[str, Any]:
        """One row, by reading its whole row group."""
        for path, count in zip(self.files, self.counts, strict=True):
            if number < count:
                return read_row(pq.ParquetFile(path), number)
            number -= count
        raise IndexError(number)

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Any]:
        rows = [{name: self.read_row(number)[name] for name in WANTED} for number in numbers]
        padded, masks = zip(*(self._pad(number, row) for number, row in zip(numbers, rows, strict=True)), strict=True)
        return {
            "text_embedding": torch.stack(padded),
            "text_attention_mask": torch.stack(masks),
            "info_list": [{"id": row["id"], "caption": row["caption"], "prompt": row["caption"]} for row in rows],
        }

    def _pad(self, number: int, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        shape, data = row["text_embedding_shape"], row["text_embedding_bytes"]
        dtype = getattr(torch, row["text_embedding_dtype"]) if self.reads_dtype else torch.float32
        if random.Random(self.seed ^ number).random() < self.drop:
            values = torch.zeros(shape, dtype=dtype)
        else:
            values = torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(dtype).reshape(shape)
        values = values.squeeze(0) if values.dim() == 3 else values
        missing = max(0, LENGTH - len(values))
        mask = torch.cat([torch.ones(LENGTH - missing), torch.zeros(missing)])
        return torch.cat([values, values.new_zeros(missing, values.shape[1])])[:LENGTH], mask


def read_row(file: pq.ParquetFile, number: int) -> dict[str, Any]:
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if number < count:
            columns = file.read_row_group(group).to_pydict()
            return {name: values[number] for name, values in columns.items()}
        number -= count
    raise IndexError(number)
