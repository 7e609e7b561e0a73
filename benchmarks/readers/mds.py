"""MosaicML's MDS, in an interpreter of its own: mosaicml-streaming does not stand numpy and transformers of today.

PYTHON benchmarks/readers/mds.py write TARS FOLDER           from tars with a member .npy a sample
PYTHON benchmarks/readers/mds.py read FOLDER ORDER BATCH COLD LIMIT SKIP    ORDER is `sequential` or `random`
"""

from __future__ import annotations

import io
import itertools
import json
import random
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from meter import evict, measure  # type: ignore[import-not-found]
from streaming import MDSWriter, StreamingDataset  # type: ignore[import-not-found]

COLUMNS = {"tokens": "int", "t5": "bytes"}


def write(tars: Path, folder: str) -> None:
    """Rows of all tars, uncompressed."""
    with MDSWriter(out=folder, columns=COLUMNS) as writer:
        for path in sorted(tars.glob("*.tar")):
            with tarfile.open(path) as archive:
                for member in archive:
                    values = np.load(io.BytesIO(archive.extractfile(member).read()))  # type: ignore[union-attr]
                    writer.write({"tokens": len(values), "t5": values.tobytes()})


def read(folder: str, order: str, size: int, is_cold: bool, limit: int, skip: int) -> dict[str, Any]:
    """What it costs to have all rows, or so many, in padded batches."""
    data = StreamingDataset(local=folder, shuffle=False, batch_size=size)
    numbers = list(range(len(data)))
    if order == "random":
        random.Random(0).shuffle(numbers)
    if is_cold:
        evict(path for path in Path(folder).rglob("*") if path.is_file())
    source = iter(data) if order == "sequential" else (data[number] for number in numbers)
    return measure(pad_all(source, size), skip=skip, limit=limit)


def pad_all(source: Iterator[dict[str, Any]], size: int) -> Iterator[tuple[int, int]]:
    """Rows and bytes of each batch that was padded."""
    while samples := list(itertools.islice(source, size)):
        pad([np.frombuffer(sample["t5"], np.float16).reshape(sample["tokens"], -1) for sample in samples])
        yield len(samples), sum(len(sample["t5"]) for sample in samples)


def pad(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A batch and its mask."""
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), lengths.max(), rows[0].shape[1]), rows[0].dtype)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded, np.arange(padded.shape[1]) < lengths[:, None]


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), sys.argv[3])
    else:
        _, _, folder, order, size, cold, limit, skip = sys.argv
        print(json.dumps(read(folder, order, int(size), cold == "1", int(limit), int(skip))))
